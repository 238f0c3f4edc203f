"""Samples beyond a model's capacity: when the capacity is reached, the last tokens become a new prompt.

The model forgets everything before those tokens, as in a window that moves by more than one token.
"""

import numpy as np

from trax_hourglass.inference import decoding
from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError


def stream(sampler, prompts, length, window, seed=0):
  """Yields lists of Samples like `Sampler.stream`, for any length.

  Args:
    sampler: the Sampler, whose model has a capacity of `max_length` tokens.
    prompts: see `Sampler.stream`. If one reaches the capacity, only the last `window` tokens of each prompt are used.
    length: number of tokens to sample after each prompt.
    window: number of last tokens in a new prompt, below the capacity.
    seed: see `Sampler.stream`, which would draw the same tokens up to the first new prompt.

  Raises:
    InputError: an invalid window size, or the errors of `Sampler.stream`.
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
