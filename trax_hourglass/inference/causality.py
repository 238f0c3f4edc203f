"""A check that a model does not see the future, on the model as it is and at every offset of a window.

Results of several projects were wrong by leaks that no test of one offset had found, such as a group's mean that was
handed back to the group's own members.

Letters: L tokens of the window, B rows of a batch, V vocabulary.
"""

import dataclasses

import jax
import numpy as np

from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError

_TOLERANCE = 1e-4  # Of the largest logit: rows of a batch are rounded alike, but nobody promises it.


@dataclasses.dataclass(frozen=True)
class Causality:
  """Result of a check.

  Attributes:
    n_offsets: tokens from which on the window was changed, one after the other.
    largest_difference: of an output that may not change, as a share of the largest logit.
    leak: (token, output) of the first token that an earlier output, or its own, was seen to depend on; None for none.
  """
  n_offsets: int
  largest_difference: float
  leak: tuple | None


def check(model, tokens, batch_size, seed=0, on_batch=None):
  """Changes all tokens from each offset on, and looks for outputs before it that change.

  Args:
    model: initialised, in mode 'eval': tokens (B, L) -> logits (B, L, V); output i is for token i and may depend on
      tokens before i only.
    tokens: (L,), the window.
    batch_size: B.
    seed: of the tokens that take the others' places.
    on_batch: called after each batch with how many offsets are done.

  Returns:
    The Causality.

  Raises:
    InputError: no tokens, or a vocabulary of one, which can be changed into nothing.
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
