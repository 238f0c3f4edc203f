"""A layer that takes a sequence in two halves, so that its activations exist for one at a time.

Outside of a loop XLA takes what the backward pass makes again for what the forward pass has made, and keeps it in between.
A resampling has one feed-forward layer only; a loop over halves is one that stays.

Letters: B batch, L vectors, D model width.
"""

import jax
import jax.numpy as jnp
from trax import fastmath
from trax.layers import base

from trax_hourglass.layers.scan import init_pattern
from trax_hourglass.ops.remat import recomputed

_HALVES = 2


class Halved(base.Layer):
  """A layer whose vectors do not see each other, half by half: (B, L, D) -> (B, L, D); its weights are that layer's."""

  def __init__(self, layer, recompute):
    """Creates the layer.

    Args:
      layer: a layer of one input and one output without state, that maps each vector by itself.
      recompute: what the backward pass makes again, see remat.py.
    """
    super().__init__(name='Halved', sublayers_to_print=[layer])
    self._layer = layer
    self._recompute = recompute

  def init_weights_and_state(self, input_signature):
    self.weights, self.state = init_pattern(self._layer, input_signature, self.rng)

  def forward(self, x):
    n_rows, length, width = x.shape
    half = -(-length // _HALVES)

    def step(_, half_and_rng):
      half, rng = half_and_rng
      return None, self._layer.pure_fn(half, self.weights, self.state, rng)[0]

    halves = jnp.pad(x, ((0, 0), (0, _HALVES * half - length), (0, 0))).reshape(n_rows, _HALVES, half, width).swapaxes(0, 1)
    rngs = fastmath.random.split(self.rng, _HALVES)
    _, halves = jax.lax.scan(recomputed(step, self._recompute), None, (halves, rngs))
    return halves.swapaxes(0, 1).reshape(n_rows, -1, width)[:, :length]
