"""Checks that a model does not see future tokens, on the actual model and at every offset of a window.

Leaks that tests at a single offset missed have invalidated results of several projects. One example is a group's mean
that its own members could see.

Letters: L tokens of the window, B rows of a batch, V vocabulary.
"""

import dataclasses

import jax
import numpy as np

from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError

_TOLERANCE = 1e-4  # Relative to the largest logit; rows of a batch round alike in practice, but without guarantee.


@dataclasses.dataclass(frozen=True)
class Causality:
  """Holds the result of a check.

  Attributes:
    n_offsets: number of checked offsets, from each of which on the window was changed.
    largest_difference: largest change of an output that must not change, relative to the largest logit.
    leak: (token, output) of the first token on which its own or an earlier output depends; None without a leak.
  """
  n_offsets: int
  largest_difference: float
  leak: tuple | None


def check(model, tokens, batch_size, seed=0, on_batch=None):
  """Replaces all tokens from each offset on, and compares the outputs up to the offset.

  Args:
    model: initialised, in mode 'eval': tokens (B, L) -> logits (B, L, V); output i predicts token i and may depend
      only on tokens before i.
    tokens: (L,), the window.
    batch_size: B.
    seed: seed of the replacement tokens.
    on_batch: called after each batch with the number of checked offsets.

  Returns:
    The Causality.

  Raises:
    InputError: no tokens, or a vocabulary of a single token, which has no replacement.
  """
  length, vocab_size = len(tokens), getattr(model, 'vocab_size', 256)
  checks.check_sizes(length=length, batch_size=batch_size)
  if vocab_size < 2:
    raise InputError(f'vocab_size is {vocab_size}: a text of one token cannot be changed')
  forward = jax.jit(lambda weights, state, x: model.pure_fn(x, weights, state, jax.random.PRNGKey(0))[0])
  tokens = np.asarray(tokens, np.int32)
  others = (tokens + np.random.default_rng(seed).integers(1, vocab_size, (length, length))) % vocab_size
  place = np.arange(length)
  changed = np.where(place[None] >= place[:, None], others, tokens).astype(np.int32)
  rows, largest, leak = batch_size + 1, 0.0, None
  for first in range(0, length, batch_size):
    part = changed[first:first + batch_size]
    batch = np.concatenate([tokens[None], part, np.repeat(tokens[None], rows - 1 - len(part), axis=0)])
    logits = np.asarray(forward(model.weights, model.state, batch), np.float32)
    difference = np.abs(logits[1:1 + len(part)] - logits[:1]).max(axis=-1) / max(np.abs(logits[0]).max(), 1e-9)
    difference = np.where(place[None] <= place[first:first + len(part), None], difference, 0)
    difference = np.where(np.isnan(difference), np.inf, difference)
    largest = max(largest, float(difference.max()))
    if leak is None and difference.max() > _TOLERANCE:
      row, output = np.argwhere(difference > _TOLERANCE)[0]
      leak = first + int(row), int(output)
    if on_batch is not None:
      on_batch(first + len(part))
  return Causality(length, largest, leak)
