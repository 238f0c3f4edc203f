"""Bits per byte or dimension of a model on held-out data, over all devices of all hosts.

A bit is a factor of 2 in probability: the mean of -log2 p(token) over all tokens. How much context a token is scored
with is told by windows, see inference/windows.py. Letters: B batch, L tokens of a window, S scored tokens of a window.
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

# Ways to score text, (length, stride): the paper's enwik8 test and its ablations, and what the notebook beside the
# authors' code does. Images are scored whole in all of them.
PROTOCOLS = {'paper': (4096, 128), 'ablation': (2048, 2048), 'notebook': (6912, 128)}


@dataclasses.dataclass(frozen=True)
class Score:
  """Result of an evaluation.

  Attributes:
    bits_per_token: mean bits; per byte or dimension, where tokens are bytes of text or images.
    standard_error: of that mean, were windows drawn independently; None with a single window. Neighbours in a text
      resemble each other, and then the true error is larger, most so with a short stride.
    n_tokens: tokens scored, each once.
    n_windows: windows that they were scored in.
    length: tokens of a window.
    stride: tokens that windows move by.
    seconds: of the evaluation, compilation included.
    tokens_per_second: tokens scored in a second, without the first batches, which wait for a compilation.
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
    """Tokens before each scored one at least, but at the beginning."""
    return self.length - self.stride


def shown_by(progress, unit):
  """Returns an `on_batch` that shows bits per unit, such as 'byte', by a runtime.progress.Progress."""
  return lambda n_done, n_tokens, bits: progress.show(n_done, n_tokens, f'{bits:.4f} bits/{unit}')


class Scorer:
  """A model's compiled evaluation; one compilation for each shape of batches."""

  def __init__(self, model, mesh=None, chunk=None):
    """Creates the scorer.

    Args:
      model: layer in mode 'eval', tokens (B, L) -> logits (B, L, V).
      mesh: devices to share batches out to, see sharding.py; None for all there are.
      chunk: tokens of a sequence whose logits exist at a time; None for all.

    Raises:
      InputError: a chunk that the model cannot be scored by.
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
      weights: the model's; on the mesh, or the same on all hosts.
      state: the model's, likewise.
      data: a split, with `len` and `read(start, length)`, and `example_length` where it is made of examples.
      batch_size: B; does not change the result but for rounding. Rows without tokens fill it up to the number of
        devices.
      length: L.
      stride: tokens that windows move by; None for L, windows without context.
      max_tokens: score only so many; None for all.
      on_batch: called after each batch with tokens scored, tokens to score in all, and mean bits so far.
      max_windows: score only so many windows without context, from all parts of the data; None for all.

    Returns:
      The Score, the same on all hosts.

    Raises:
      InputError: nothing to score, or sizes out of their range.
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
          if before:  # The device has a batch to work on while the one before is read and the next one made.
            tally.add(*before)
          before = running, counts
        tally.add(*before)
    finally:
      jax.block_until_ready(running)  # Stopped by Ctrl-C, Python would otherwise end under the computation, and crash.
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
  """A language model's output at the last S tokens only: what the vocabulary's projection costs, it costs for those."""

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
  """Adds up batches, in float64: a sum of millions of float32 would lose the last digits."""

  def __init__(self, n_tokens, on_batch):
    self._n_tokens, self._on_batch = n_tokens, on_batch
    self._nats, self._counts, self._total, self._n_added = [], [], 0.0, 0
    self._clock, self._seconds, self._tokens_timed = None, 0.0, 0

  def wait_for_compilation(self):
    """Leaves the next batch out of the speed."""
    self._clock = None

  def add(self, nats, counts):
    """Adds the nats (B, S) of a batch, 0 where there is no token, and how many tokens its windows scored."""
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
    # Of a mean over windows that hold unequally many tokens (Cochran, Sampling Techniques, section 6.3).
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
  """Scores data with an initialised model in mode 'eval'; arguments, result and errors as `Scorer.score`'s."""
  return Scorer(model).score(model.weights, model.state, data, batch_size, length, stride, max_tokens, on_batch)
