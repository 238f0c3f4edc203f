"""Makes resampling layers, which no scan covers, as cheap in memory as the blocks of a stack."""

from trax import layers as tl

from trax_hourglass.ops import remat
from trax_hourglass.runtime import sharding


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
