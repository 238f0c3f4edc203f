"""Sampling past a model's room: when it is full, its last tokens begin it anew.

The model forgets what lies before those tokens, as it would in a window that moves by more than one token.
"""

import numpy as np

from trax_hourglass.inference import decoding
from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError


def stream(sampler, prompts, length, window, seed=0):
  """Yields lists of Samples as `Sampler.stream` does, of any length.

  Args:
    sampler: the Sampler, whose model has room for `max_length` tokens.
    prompts: see `Sampler.stream`; of one that is longer than the room the last tokens count.
    length: tokens to write after each prompt.
    window: tokens that the model begins anew with, fewer than it has room for.
    seed: see `Sampler.stream`; up to the first new beginning, tokens are those that `Sampler.stream` would draw.

  Raises:
    InputError: a window of another size, or what `Sampler.stream` raises.
  """
  room = sampler.model.max_length
  checks.check_sizes(window=window, length=length)
  checks.check_seed(seed)
  if window >= room:
    raise InputError(f'window is {window}: give fewer tokens than the {room} that the model has room for '
                     '(Hourglass.max_length)')
  if not prompts:
    raise InputError('there are 0 prompts: give at least one, which may be empty')
  texts = [decoding.as_tokens(prompt, sampler.model.vocab_size) for prompt in prompts]
  if max(map(len, texts)) >= room:
    texts = [text[-window:] for text in texts]
  return _stream(sampler, texts, length, window, seed, room)


def _stream(sampler, texts, length, window, seed, room):
  missing, part = [length] * len(texts), 0
  while any(missing):
    n = min(room - max(map(len, texts)), max(missing))
    for pieces in sampler.stream(texts, n, seed, part=part):
      pieces = [decoding.Sample(tokens[:n_missing], log_probs[:n_missing])
                for (tokens, log_probs), n_missing in zip(pieces, missing)]
      for row, (tokens, _) in enumerate(pieces):
        texts[row] = np.concatenate([texts[row], tokens])
        missing[row] = 0 if sampler.stop in tokens else missing[row] - len(tokens)
      yield pieces
      if not any(missing):
        return
    texts, part = [text[-window:] for text in texts], part + 1
