"""Bits per byte of a model on held-out data.

A bit is a factor of 2 in probability: the mean of -log2 p(token) over all tokens. Letters: B batch, L tokens.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from trax_hourglass.data import batches
from trax_hourglass.hourglass import check_vocabulary


@dataclasses.dataclass(frozen=True)
class Score:
  """Result of an evaluation.

  Attributes:
    bits_per_token: mean bits; per byte, where tokens are bytes.
    n_tokens: tokens scored, each once.
  """
  bits_per_token: float
  n_tokens: int


def score(model, data, batch_size, length, max_tokens=None, progress=lambda batches: batches):
  """Scores data in windows behind each other, each starting without context.

  Args:
    model: initialised layer in mode 'eval', tokens (B, L) -> logits (B, L, V).
    data: a split, with `len` and `read(start, length)`.
    batch_size: B; does not change the result but for rounding.
    length: L.
    max_tokens: score only so many; None for all.
    progress: wraps the list of batch numbers, for a progress bar.

  Raises:
    ValueError: nothing to score, or sizes below 1.
  """
  if not len(data) or max_tokens == 0:
    raise ValueError('there is nothing to score: the split is empty or max_tokens is 0')

  @jax.jit
  def nats(weights, state, tokens, token_weights):
    logits, _ = model.pure_fn(tokens, weights, state, jax.random.PRNGKey(0))
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -(jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0] * token_weights).sum(axis=-1)

  total, n_tokens = 0.0, 0
  n_batches = math.ceil(min(len(data), max_tokens or len(data)) / (batch_size * length))
  windows = batches.consecutive_windows(data, batch_size, length, max_tokens)
  for _, (tokens, _, token_weights) in zip(progress(range(n_batches)), windows):
    check_vocabulary(tokens, getattr(model, 'vocab_size', math.inf))
    # Rows are added in float64: a sum of millions of float32 would lose the last digits.
    total += sum(map(float, nats(model.weights, model.state, tokens, token_weights)))
    n_tokens += int(token_weights.sum())
  return Score(total / n_tokens / math.log(2), n_tokens)
