"""Applies shorten factor dropout (paper, section 4.1): each training step draws one of several hierarchies.

`2@1 8@2|3 2@1` shortens by 2 or by 3. All alternatives are in one compiled step, behind a `lax.switch`; each step
computes only the alternative drawn. Token-level layers are compiled once. Each alternative pads vectors to a multiple
of its own factor, so nothing is spent on a common multiple.

One set of weights serves all alternatives, given resampling whose weights do not depend on the factor. The weights have
the names, shapes and order of any single alternative, and can run, score and sample as that one.

A switch allocates memory for what the backward pass of each branch keeps. Everything below the first shortening
therefore adds up over the alternatives. For 2@1 4@2|3 2@1 at width 128 and 768 tokens, the temporary bytes are 1.37
times those of 2@1 4@2 2@1. Where `accumulate` splits a batch into parts, each part draws.

Letters: B batch, L tokens, K total factor of the deepest level, D model width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from trax import shapes
import trax.layers as tl

from trax_hourglass.layers import core
from trax_hourglass.layers.attention import RelativeBiases
from trax_hourglass.layers.plugins import make_shortening
from trax_hourglass.layers.plugins import make_upsampling
from trax_hourglass.ops import prng
from trax_hourglass.runtime.errors import InputError


class DrawnValley(core.Scope):
  """Applies one of several valleys at each call, drawn uniformly by its key: (x (B, L, D)) -> (B, L, D); any L.

  Trax sees only the first valley: weights, state and sublayers are that valley's.
  """

  def __init__(self, valleys, total_factors):
    """Creates the layer.

    Args:
      valleys: Serials (B, n K, D) -> (B, n K, D), all with weights of the same structure.
      total_factors: the K of each valley.
    """
    super().__init__(*valleys[0].sublayers, name=f'Valley_{"|".join(map(str, total_factors))}')
    self._valleys, self._total_factors = valleys, total_factors

  def init_weights_and_state(self, signature):
    batch, length, width = signature.shape
    length += -length % self._total_factors[0]
    super().init_weights_and_state(shapes.ShapeDtype((batch, length, width), signature.dtype))

  def forward(self, x):
    # Closed over: weights that are variables of a branch could not be shared with other layers.
    weights, state, rng = self.weights, self.state, self.rng

    def branch(valley, total_factor):
      def run(x):
        padded = jnp.pad(x, ((0, 0), (0, -x.shape[1] % total_factor), (0, 0)))
        out, new_state = valley.pure_fn(padded, weights, state, rng, use_cache=True)
        return out[:, :x.shape[1]], new_state
      return run

    branches = [branch(*one) for one in zip(self._valleys, self._total_factors)]
    out, self.state = jax.lax.switch(drawn(rng, len(branches)), branches, x)
    return out


def drawn(key, n):
  """Returns the index, int32, of the one of n alternatives that a layer's key, uint32 (2,), draws."""
  return (prng.mix(prng.mix(key[0]) ^ key[1]) % jnp.uint32(n)).astype(jnp.int32)


def check_same_weights(specs, hierarchy, alternatives, shortening, upsampling):
  """Raises InputError if the weights of a resampling depend on the factor.

  Args:
    specs: the BlockSpec of each level.
    hierarchy: the string, for the message.
    alternatives: levels of each alternative, as from `hierarchy.parse`.
    shortening: the model's plug-in.
    upsampling: the model's plug-in.
  """
  # New biases, because `init` would leave abstract weights in those that the model's layers share.
  for depth, spec in enumerate(specs[:-1], 1):
    spec = dataclasses.replace(spec, mode='eval', relative_biases=RelativeBiases(spec.d_model, spec.n_heads))
    for role, plug_in, make in (('shortening', shortening, make_shortening),
                                ('upsampling', upsampling, make_upsampling)):
      found = {}
      for levels in alternatives:
        factor = levels[depth].shorten_factor
        layer = make(spec, f'Hourglass.{role}', plug_in, factor, levels[depth - 1].total_factor)
        fine, coarse = (shapes.ShapeDtype((1, n, spec.d_model)) for n in (factor, 1))
        inputs = fine if role == 'shortening' else coarse if layer.n_in == 1 else (coarse, fine)
        weights, _ = jax.eval_shape(lambda layer=layer, inputs=inputs: layer.init(inputs))
        found[factor] = [leaf.shape for leaf in jax.tree.leaves(weights)]
      factors = list(found)
      for factor in factors[1:]:
        differ = [(a, b) for a, b in zip(found[factors[0]], found[factor]) if a != b]
        if differ:
          a, b = differ[0]
          # `assert_shape` hides the name of a layer.
          name = getattr(getattr(plug_in, 'func', plug_in), '__name__', layer.name)
          raise InputError(
              f'hierarchy {hierarchy!r} draws its factor, but {role} by {name} has weights of shape {a} at factor '
              f'{factors[0]} and {b} at {factor}: choose one whose weights do not depend on it, such as '
              'Hourglass.shortening = @ShortenByAverage and UpsampleByAttention.added = @UpsampleByRepeat')
