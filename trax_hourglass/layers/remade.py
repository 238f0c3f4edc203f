"""Makes resampling layers, which no scan covers, as cheap in memory as the blocks of a stack.

Letters: B batch, L vectors, D model width.
"""

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from trax import fastmath
from trax import layers as tl
from trax.layers import base

from trax_hourglass.layers import scan
from trax_hourglass.ops import remat
from trax_hourglass.runtime import sharding

_HALVES = 2


class GradientsAtOnce(tl.Serial):
  """Completes a Serial's backward pass, weight gradients included, before the backward pass of earlier layers begins.

  XLA for GPUs defers the matrix products of weight gradients and keeps all their factors until then. XLA for TPUs does
  not, and a barrier would reduce fusion there.
  """

  def __init__(self, *sublayers):
    super().__init__(*sublayers, name='Serial')  # Keeps weight names those of a Serial.

  def forward(self, xs):
    if sharding.platform() == 'gpu':
      xs, self.weights = remat.at_once((xs, self.weights))
    return super().forward(xs)


class Remade(tl.Serial):
  """Rematerializes a Serial in the backward pass as `recompute` says: (activations ...) -> activations.

  Layers shared with other parts of the model may be direct sublayers only, not deeper ones.
  """

  def __init__(self, *sublayers, recompute, name):
    """Creates the layer.

    Args:
      *sublayers: layers in series, in mode 'train'.
      recompute: rematerialization policy, see remat.py.
      name: name of the layer.
    """
    super().__init__(*sublayers, name=name)
    self._recompute = recompute

  def forward(self, xs):
    # A layer that another part of the model holds has a marker in place of weights, which would block the gradient.
    marked, marks, rng = self.weights, self.state, self.rng
    held = [(layer.weights, layer.state) if isinstance(weights, dict) else (weights, state)
            for layer, weights, state in zip(self.sublayers, marked, marks)]
    weights, state = map(tuple, zip(*held))

    def run(xs_and_weights, state_and_rng):
      xs, weights = xs_and_weights
      state, self._rng = state_and_rng
      self.weights, self.state = weights, state
      out = super(Remade, self).forward(xs)
      return out, self.state

    out, new = remat.made_again(run, self._recompute)((xs, weights), (state, rng))
    # `run` left traced values in the layers.
    self._rng, self.weights = rng, marked
    for layer, (weights, _), state in zip(self.sublayers, held, new):
      layer.weights, layer.state = weights, state
    self.state = tuple(mark if isinstance(mark, dict) else state for mark, state in zip(marks, new))
    return out


class Halved(base.Layer):
  """Applies a layer to one half of the sequence after the other: (B, L, D) -> (B, L, D).

  The layer's vectors must not see each other. Weights are the layer's own. Activations exist for one half at a time,
  and the result is saved for the backward pass.
  """

  def __init__(self, layer, recompute):
    """Creates the layer.

    Args:
      layer: a layer with one input, one output and no state that maps each vector independently.
      recompute: rematerialization policy, see remat.py.
    """
    super().__init__(name='Halved', sublayers_to_print=[layer])
    self._layer = layer
    self._recompute = recompute

  def init_weights_and_state(self, input_signature):
    self.weights, self.state = scan.init_pattern(self._layer, input_signature, self.rng)

  def forward(self, x):
    n_rows, length, width = x.shape
    half = -(-length // _HALVES)

    def step(nothing, weights, half, rng):
      weights = sharding.gathered(weights)
      with sharding.all_gathered():
        return (nothing, self._layer.pure_fn(half, weights, self.state, rng)[0]), None

    padded = jnp.pad(x, ((0, 0), (0, _HALVES * half - length), (0, 0)))
    halves = padded.reshape(n_rows, _HALVES, half, width).swapaxes(0, 1)
    rngs = fastmath.random.split(self.rng, _HALVES)
    (_, halves), _ = remat.looped(step, self._recompute)(None, self.weights, halves, rngs)
    return checkpoint_name(halves.swapaxes(0, 1).reshape(n_rows, -1, width)[:, :length], remat.SAVED)

  forward.gathers_weights = True  # The layer gathers them itself, in each half.
