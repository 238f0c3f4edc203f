"""Computes bits per byte or dimension of a model on held-out data, over all devices of all hosts.

The score is the mean of -log2 p(token) over all tokens. Windows determine the context of each scored token, see
inference/windows.py. Letters: B batch, L tokens of a window, S scored tokens of a window.
"""

import dataclasses
import math
import time

import jax
import numpy as np

from trax_hourglass.inference import windows as windows_lib
from trax_hourglass.layers import loss
from trax_hourglass.runtime import checks
from trax_hourglass.runtime.checks import check_vocabulary
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import sharding as mesh_lib

# Protocols to score text, (length, stride): the paper's enwik8 test, its ablations, and the notebook published with the
# authors' code. All protocols score images whole.
PROTOCOLS = {'paper': (4096, 128), 'ablation': (2048, 2048), 'notebook': (6912, 128)}


@dataclasses.dataclass(frozen=True)
class Score:
  """Holds the result of an evaluation.

  Attributes:
    bits_per_token: mean bits, which are per byte or dimension for tokens that are bytes of text or images.
    standard_error: standard error of the mean, assuming independent windows; None with a single window.
      The true error is larger, since adjacent windows of a text are correlated, most with a short stride.
    n_tokens: number of scored tokens, each scored once.
    n_windows: number of windows.
    length: tokens per window.
    stride: tokens between the starts of windows.
    seconds: duration of the evaluation, compilation included.
    tokens_per_second: throughput in scored tokens, without the first batches, which wait for compilation.
  """
  bits_per_token: float
  standard_error: float | None
  n_tokens: int
  n_windows: int
  length: int
  stride: int
  seconds: float
  tokens_per_second: float

  @property
  def context(self):
    """Returns the minimum context of a scored token, except at the beginning of a text."""
    return self.length - self.stride


def shown_by(progress, unit):
  """Returns an `on_batch` that shows bits per unit, such as 'byte', on a runtime.progress.Progress."""
  return lambda n_done, n_tokens, bits: progress.show(n_done, n_tokens, f'{bits:.4f} bits/{unit}')


class Scorer:
  """Scores data by a model's compiled evaluation, one compilation per batch shape."""

  def __init__(self, model, mesh=None, chunk=None):
    """Creates the scorer.

    Args:
      model: layer in mode 'eval', tokens (B, L) -> logits (B, L, V).
      mesh: devices over which batches are sharded, see sharding.py; None for all devices.
      chunk: tokens of a sequence whose logits exist at the same time; None for all.

    Raises:
      InputError: a chunk that the model does not support.
    """
    loss.check_chunk(model, chunk)
    self._mesh = mesh or mesh_lib.over_devices()
    self._vocab_size = getattr(model, 'vocab_size', math.inf)

    def nats(weights, state, tokens, token_weights):
      n_scored = token_weights.shape[1]
      with mesh_lib.divided(self._mesh):
        by_token, _ = loss.token_nats(_OfLastTokens(model, n_scored), tokens, tokens[:, -n_scored:], weights, state,
                                      jax.random.PRNGKey(0), chunk)
      return by_token * token_weights

    self.nats = jax.jit(nats, out_shardings=mesh_lib.everywhere(self._mesh))

  def score(self, weights, state, data, batch_size, length, stride=None, max_tokens=None, on_batch=None,
            max_windows=None):
    """Scores data in windows.

    Args:
      weights: the model's weights, on the mesh or equal on all hosts.
      state: the model's state, likewise.
      data: a split, with `len` and `read(start, length)`, and with `example_length` if it consists of examples.
      batch_size: B, which affects the result only by rounding. Batches are padded with empty rows to a multiple of
        the number of devices.
      length: L.
      stride: tokens between the starts of windows; None for L, which gives windows without context.
      max_tokens: number of tokens to score, from the first on; None for all.
      on_batch: called after each batch with the number of scored tokens, the total number, and mean bits so far.
      max_windows: number of windows without context to score, spread over the data; None for all windows.

    Returns:
      The Score, the same on all hosts.

    Raises:
      InputError: nothing to score, or sizes out of range.
    """
    started = time.monotonic()
    checks.check_sizes(batch_size=batch_size)
    n_tokens = len(data) if max_tokens is None else min(max_tokens, len(data))
    if n_tokens < 1:
      raise InputError('there is nothing to score: the split is empty or max_tokens is below 1')
    example_length = getattr(data, 'example_length', None)
    length, stride = windows_lib.sizes(length, stride, example_length)
    weights, state = jax.tree.map(self._placed, (weights, state))
    plan = windows_lib.plan(n_tokens, length, stride, example_length)
    if max_windows is not None:
      plan = [plan[0].spread(max_windows)]
      n_tokens = int(plan[0].counts.sum())
    tally, running = _Tally(n_tokens, on_batch), None
    try:
      for windows in plan:
        tally.wait_for_compilation()
        before = None
        for tokens, token_weights, counts in self._batches(windows, data, batch_size):
          check_vocabulary(tokens, self._vocab_size)
          running = self.nats(weights, state, *mesh_lib.place_rows((tokens, token_weights), self._mesh))
          if before:  # The device computes a batch while the host reads the previous result and the next batch.
            tally.add(*before)
          before = running, counts
        tally.add(*before)
    finally:
      jax.block_until_ready(running)  # Else after Ctrl-C, Python would exit during the computation and crash.
    return tally.score(length, stride, time.monotonic() - started)

  def _batches(self, windows, data, batch_size):
    batch_size = min(batch_size, len(windows.starts))
    n_rows = -(-batch_size // self._mesh.size) * self._mesh.size
    return windows.batches(data, batch_size, n_rows, jax.process_index(), jax.process_count())

  def _placed(self, x):
    if isinstance(x, jax.Array) and getattr(x.sharding, 'mesh', None) == self._mesh:
      return x
    return mesh_lib.place(x, mesh_lib.everywhere(self._mesh))


class _OfLastTokens:
  """Applies a language model with output at the last S tokens only, to save the cost of the vocabulary projection."""

  def __init__(self, model, n_scored):
    self._model, self._n_scored = model, n_scored

  def vectors(self, tokens, weights, state, rng):
    vectors, state = self._model.vectors(tokens, weights, state, rng)
    return vectors[:, -self._n_scored:], state

  def logits(self, vectors, weights):
    return self._model.logits(vectors, weights)

  def pure_fn(self, tokens, weights, state, rng):
    if not hasattr(self._model, 'vectors'):
      logits, state = self._model.pure_fn(tokens, weights, state, rng)
      return logits[:, -self._n_scored:], state
    vectors, state = self.vectors(tokens, weights, state, rng)
    return self.logits(vectors, weights), state


class _Tally:
  """Sums batches in float64, since a float32 sum over millions of tokens would lose digits."""

  def __init__(self, n_tokens, on_batch):
    self._n_tokens, self._on_batch = n_tokens, on_batch
    self._nats, self._counts, self._total, self._n_added = [], [], 0.0, 0
    self._clock, self._seconds, self._tokens_timed = None, 0.0, 0

  def wait_for_compilation(self):
    """Excludes the next batch from the throughput."""
    self._clock = None

  def add(self, nats, counts):
    """Adds the nats (B, S) of a batch, 0 at padding, and the counts of scored tokens per window."""
    nats = np.asarray(nats, np.float64)[:len(counts)].sum(axis=1)
    self._nats.append(nats)
    self._counts.append(counts)
    self._total += nats.sum()
    self._n_added += int(counts.sum())
    now = time.monotonic()
    if self._clock is not None:
      self._seconds += now - self._clock
      self._tokens_timed += int(counts.sum())
    self._clock = now
    if self._on_batch:
      self._on_batch(self._n_added, self._n_tokens, self._total / self._n_added / math.log(2))

  def score(self, length, stride, seconds):
    """Returns the Score."""
    bits, counts = np.concatenate(self._nats) / math.log(2), np.concatenate(self._counts)
    n_tokens, n_windows = int(counts.sum()), len(counts)
    mean = bits.sum() / n_tokens
    # Standard error of a ratio: windows have unequal numbers of tokens (Cochran, Sampling Techniques, section 6.3).
    error = None
    if n_windows > 1:
      error = math.sqrt(n_windows / (n_windows - 1) * ((bits - mean * counts)**2).sum()) / n_tokens
    return Score(
        bits_per_token=float(mean),
        standard_error=error,
        n_tokens=n_tokens,
        n_windows=n_windows,
        length=length,
        stride=stride,
        seconds=seconds,
        tokens_per_second=self._tokens_timed / self._seconds if self._tokens_timed else n_tokens / seconds)


def score(model, data, batch_size, length, stride=None, max_tokens=None, on_batch=None):
  """Scores data with an initialised model in mode 'eval'; arguments, result and errors are as in `Scorer.score`."""
  return Scorer(model).score(model.weights, model.state, data, batch_size, length, stride, max_tokens, on_batch)
