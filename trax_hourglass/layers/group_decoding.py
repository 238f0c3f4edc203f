"""Decodes once per group of K vectors: everything below a shortening, and an upsampling of x' alone.

In modes 'train' and 'eval' this is a plain Serial. In mode 'predict' vectors come one at a time, and every K-th vector
completes a group. Only then do the layers inside run; their output is kept and serves until the next group completes.
The first call may hold any number of vectors.

Vector iK completes group i, which holds the K vectors iK - K + 1 .. iK, with zeros before the first vector. This equals
the shift by K - 1. Group i serves positions iK .. iK + K - 1.

Letters: B batch, n vectors of a call, M groups that these vectors begin, K vectors of a group, D model width.
"""

import abc

import jax
import jax.numpy as jnp
from trax.layers import base
import trax.layers as tl


def Shortened(spec, group_size, *layers):
  """Shifts by K - 1, for causality, and shortens: (B, n, D) -> (B, M, D).

  Mode 'predict' takes any n, other modes take whole groups.

  Args:
    spec: the model's BlockSpec.
    group_size: K.
    *layers: shortening and all deeper levels, from (B, M K, D) to (B, M, D).
  """
  name = f'OncePer_{group_size}'
  if spec.decodes:
    return _Shortened(_Groups(group_size), *layers, name=name)
  return tl.Serial(tl.ShiftRight(group_size - 1), *layers, name=name)


def Expanded(spec, group_size, layer):
  """Upsamples each coarse vector to its K finer positions: (x' (B, M, D), x (B, n, D)) -> (B, n, D).

  Mode 'predict' takes any n, other modes take whole groups.

  Args:
    spec: the model's BlockSpec.
    group_size: K.
    layer: upsampling of x' alone, from (B, M, D) to (B, M K, D).
  """
  name = f'OncePer_{group_size}'
  if spec.decodes:
    return _Expanded(_Serving(group_size), layer, name=name)
  return tl.Serial(tl.Fn('Coarse', lambda coarse, fine: coarse), layer, name=name)


def run_if(condition, run, kept):
  """Returns `run(kept)` if the condition holds, else `kept`, by a loop of one or zero iterations.

  A `lax.cond` would copy its operands, all caches of the levels below, for each token.

  Args:
    condition: bool ().
    run: function of `kept` that returns arrays of the same shapes and types.
    kept: tree of arrays.
  """
  return jax.lax.fori_loop(0, condition.astype(jnp.int32), lambda _, kept: run(kept), kept)


class _PerGroup(tl.Serial, abc.ABC):
  """Runs all layers but the first once per group; the first keeps the state (step, output in use, ...)."""

  def __init__(self, memory, *layers, name):
    super().__init__(memory, *layers, name=name)
    self._group_size = memory.group_size
    self._inside = tl.Serial(*layers)

  def forward(self, inputs):
    memory, *inside = self.state
    (step, *_), weights = memory, self.weights[1:]
    n = (inputs if self.n_in == 1 else inputs[1]).shape[1]
    place = step % self._group_size
    groups, (step, serving, recent) = self.sublayers[0].pure_fn(inputs, (), memory, self.rng)

    def run(kept):
      new, state = self._inside.pure_fn(groups, weights, kept[1], self.rng, use_cache=True)
      return new.astype(serving.dtype), state

    # Weights are closed over: as variables of the loop they could not be shared with other layers.
    if n == 1:
      new, inside = run_if(place == 0, run, (serving, tuple(inside)))
    else:
      new, inside = run((serving, tuple(inside)))
    self.state = (step, new[:, -serving.shape[1]:], recent), *inside
    return self._answer(new, place, n).astype(groups.dtype)

  @abc.abstractmethod
  def _answer(self, new, place, n):
    """Returns the output.

    Args:
      new: new output of the layers inside, or the output in use.
      place: index of the first vector within its group.
      n: vectors of this call.
    """


class _Shortened(_PerGroup):
  """Implements `Shortened` in mode 'predict'."""

  def _answer(self, new, place, n):
    return new


class _Expanded(_PerGroup):
  """Implements `Expanded` in mode 'predict'."""

  def _answer(self, new, place, n):
    return jax.lax.dynamic_slice_in_dim(new, place, 1, axis=1) if n == 1 else new[:, :n]


class _Memory(base.Layer):
  """Keeps the state of a _PerGroup: (step, int32; output in use (B, S, D); the last R vectors (B, R, D))."""

  def __init__(self, group_size, n_in, n_serving, n_recent):
    super().__init__(n_in=n_in, name=f'GroupsOf_{group_size}')
    self._group_size = group_size
    self._n_serving = n_serving
    self._n_recent = n_recent

  @property
  def group_size(self):
    """Returns K."""
    return self._group_size

  def init_weights_and_state(self, signature):
    signature = signature if self.n_in == 1 else signature[0]
    batch, _, width = signature.shape
    serving, recent = (jnp.zeros((batch, n, width), signature.dtype) for n in (self._n_serving, self._n_recent))
    self.state = jnp.zeros((), jnp.int32), serving, recent


class _Groups(_Memory):
  """Forms groups of shifted vectors: (B, n, D) -> (B, M K, D); for one vector, the K vectors that end with it."""

  def __init__(self, group_size):
    super().__init__(group_size, n_in=1, n_serving=1, n_recent=group_size - 1)

  def forward(self, x):
    step, serving, recent = self.state
    n = x.shape[1]
    x = jnp.concatenate([recent, x.astype(recent.dtype)], axis=1)
    self.state = step + n, serving, x[:, n:]
    return x[:, :-(-n // self.group_size) * self.group_size]


class _Serving(_Memory):
  """Passes the coarse vectors through: (x' (B, M, D), x (B, n, D)) -> (B, M, D)."""

  def __init__(self, group_size):
    super().__init__(group_size, n_in=2, n_serving=group_size, n_recent=0)

  def forward(self, inputs):
    coarse, fine = inputs
    step, *kept = self.state
    self.state = step + fine.shape[1], *kept
    return coarse
