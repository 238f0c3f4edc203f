"""Decodes once per group of K vectors: everything below a shortening, and an upsampling of x' alone.

In modes 'train' and 'eval' that is no more than a Serial. In mode 'predict' vectors come one at a time, a group
completes with every K-th of them, and the layers inside run then, and not at all in between; what they gave is kept and
serves until the next group completes. The first call may hold any number of vectors.

Group i is complete with vector iK: it holds the K vectors iK - K + 1 .. iK (zeros before the first), which is what the
shift by K - 1 comes to, and serves positions iK .. iK + K - 1.

Letters: B batch, n vectors of a call, M groups that they begin, K vectors of a group, D model width.
"""

import abc

import jax
import jax.numpy as jnp
from trax.layers import base
import trax.layers as tl


def Shortened(spec, group_size, *layers):
  """Shifts by K - 1, so that nothing sees the future, and shortens: (B, n, D) -> (B, M, D).

  Any n in mode 'predict', whole groups in other modes.

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
  """Gives each coarse vector to its K finer ones: (x' (B, M, D), x (B, n, D)) -> (B, n, D).

  Any n in mode 'predict', whole groups in other modes.

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
  """Returns `run(kept)`, arrays as `kept`, or `kept` as it is; as a loop of one turn or none.

  A `lax.cond` would copy what it hands through, all caches of the levels below, for each token.

  Args:
    condition: bool ().
    run: function of `kept`.
    kept: tree of arrays.
  """
  return jax.lax.fori_loop(0, condition.astype(jnp.int32), lambda _, kept: run(kept), kept)


class _PerGroup(tl.Serial, abc.ABC):
  """A Serial whose first layer keeps (step, what serves now, ...) as its state and whose others run once per group."""

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

    # The weights are closed over: others may share them, and could not if they were variables of a branch.
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
      new: what the layers inside gave, or what serves.
      place: number of the first vector in its group.
      n: vectors of this call.
    """


class _Shortened(_PerGroup):
  """See `Shortened`."""

  def _answer(self, new, place, n):
    return new


class _Expanded(_PerGroup):
  """See `Expanded`."""

  def _answer(self, new, place, n):
    return jax.lax.dynamic_slice_in_dim(new, place, 1, axis=1) if n == 1 else new[:, :n]


class _Memory(base.Layer):
  """Keeps what a _PerGroup needs: state (step, int32; what serves now (B, S, D); the last R vectors (B, R, D))."""

  def __init__(self, group_size, n_in, n_serving, n_recent):
    super().__init__(n_in=n_in, name=f'GroupsOf_{group_size}')
    self._group_size = group_size
    self._n_serving = n_serving
    self._n_recent = n_recent

  @property
  def group_size(self):
    """K."""
    return self._group_size

  def init_weights_and_state(self, signature):
    signature = signature if self.n_in == 1 else signature[0]
    batch, _, width = signature.shape
    serving, recent = (jnp.zeros((batch, n, width), signature.dtype) for n in (self._n_serving, self._n_recent))
    self.state = jnp.zeros((), jnp.int32), serving, recent


class _Groups(_Memory):
  """Makes groups of shifted vectors: (B, n, D) -> (B, M K, D); of one vector, the K that end with it."""

  def __init__(self, group_size):
    super().__init__(group_size, n_in=1, n_serving=1, n_recent=group_size - 1)

  def forward(self, x):
    step, serving, recent = self.state
    n = x.shape[1]
    x = jnp.concatenate([recent, x.astype(recent.dtype)], axis=1)
    self.state = step + n, serving, x[:, n:]
    return x[:, :-(-n // self.group_size) * self.group_size]


class _Serving(_Memory):
  """Lets the coarse vectors through: (x' (B, M, D), x (B, n, D)) -> (B, M, D)."""

  def __init__(self, group_size):
    super().__init__(group_size, n_in=2, n_serving=group_size, n_recent=0)

  def forward(self, inputs):
    coarse, fine = inputs
    step, *kept = self.state
    self.state = step + fine.shape[1], *kept
    return coarse
