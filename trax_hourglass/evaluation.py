"""Bits per byte of a model on held-out data, over all devices of all hosts.

A bit is a factor of 2 in probability: the mean of -log2 p(token) over all tokens. Letters: B batch, L tokens.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from trax_hourglass import loss
from trax_hourglass import mesh as mesh_lib
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


class Scorer:
  """A model's compiled evaluation; one compilation for each shape of batches."""

  def __init__(self, model, mesh=None, chunk=None):
    """Creates the scorer.

    Args:
      model: layer in mode 'eval', tokens (B, L) -> logits (B, L, V).
      mesh: devices to share batches out to, see mesh.py; None for all there are.
      chunk: tokens of a sequence whose logits exist at a time; None for all.

    Raises:
      ValueError: a chunk that the model cannot be scored by.
    """
    loss.check_chunk(model, chunk)
    self._mesh = mesh or mesh_lib.over_devices()
    self._vocab_size = getattr(model, 'vocab_size', math.inf)

    def nats(weights, state, tokens, token_weights):
      by_token, _ = loss.token_nats(model, tokens, tokens, weights, state, jax.random.PRNGKey(0), chunk)
      return (by_token * token_weights).sum(axis=-1)

    self.nats = jax.jit(nats, out_shardings=mesh_lib.everywhere(self._mesh))

  def score(self, weights, state, data, batch_size, length, max_tokens=None, progress=lambda batches: batches):
    """Scores data in windows behind each other, each starting without context.

    Args:
      weights: the model's; on the mesh, or the same on all hosts.
      state: the model's, likewise.
      data: a split, with `len` and `read(start, length)`.
      batch_size: B; does not change the result but for rounding. Rows without tokens fill it up to the number of devices.
      length: L.
      max_tokens: score only so many; None for all.
      progress: wraps the range of batch numbers, for a progress bar.

    Returns:
      The Score, the same on all hosts.

    Raises:
      ValueError: nothing to score, or sizes below 1.
    """
    if not len(data) or max_tokens == 0:
      raise ValueError('there is nothing to score: the split is empty or max_tokens is 0')
    weights, state = jax.tree.map(self._placed, (weights, state))
    n_rows = -(-batch_size // self._mesh.size) * self._mesh.size
    windows = batches.consecutive_windows(data, batch_size, length, max_tokens, n_rows, jax.process_index(),
                                          jax.process_count())
    n_batches = math.ceil(min(len(data), max_tokens or len(data)) / (batch_size * length))
    total, n_tokens = 0.0, 0
    for _, (tokens, token_weights, n) in zip(progress(range(n_batches)), windows):
      check_vocabulary(tokens, self._vocab_size)
      by_row = self.nats(weights, state, *mesh_lib.place_rows((tokens, token_weights), self._mesh))
      # Rows are added in float64: a sum of millions of float32 would lose the last digits.
      total += np.asarray(by_row, np.float64).sum()
      n_tokens += n
    return Score(total / n_tokens / math.log(2), n_tokens)

  def _placed(self, x):
    if isinstance(x, jax.Array) and getattr(x.sharding, 'mesh', None) == self._mesh:
      return x
    return mesh_lib.place(x, mesh_lib.everywhere(self._mesh))


def score(model, data, batch_size, length, max_tokens=None, progress=lambda batches: batches):
  """Scores data with an initialised model in mode 'eval'; arguments, result and errors as `Scorer.score`'s."""
  return Scorer(model).score(model.weights, model.state, data, batch_size, length, max_tokens, progress)
