"""A stack of N equal blocks as one layer: compiled once, whatever N is.

Letters: N blocks, B batch, L vectors, D model width.
"""

import jax
import jax.numpy as jnp
from trax import fastmath
from trax.layers import base

from trax_hourglass.recompute import recomputed

class Scanned(base.Layer):
  """N copies of a block behind each other: (x (B, L, D), what all blocks share ...) -> (B, L, D).

  The block maps (x, shared ...) to a new x. Weights and states are the block's with a leading axis N, first block first.
  """

  def __init__(self, block, n_blocks, recompute):
    """Creates the layer.

    Args:
      block: a layer with one output, of the shape of its first input; it serves as the pattern of all N.
      n_blocks: N, at least 1.
      recompute: what the backward pass makes again, see recompute.py.
    """
    super().__init__(n_in=block.n_in, name=f'Scanned_{n_blocks}', sublayers_to_print=[block])
    self._block = block
    self._n_blocks = n_blocks
    self._recompute = recompute

  @property
  def block(self):
    """The layer all blocks are patterned on."""
    return self._block

  @property
  def n_blocks(self):
    """N."""
    return self._n_blocks

  def init_weights_and_state(self, input_signature):
    rngs = fastmath.random.split(self.rng, self._n_blocks)
    layers = [self._block.init(input_signature, rng=rng) for rng in rngs]
    self.weights, self.state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

  def forward(self, inputs):
    x, *shared = inputs if self.n_in > 1 else (inputs,)

    def step(x, layer):
      weights, state, rng = layer
      return self._block.pure_fn((x, *shared) if shared else x, weights, state, rng)

    rngs = fastmath.random.split(self.rng, self._n_blocks)
    x, self.state = jax.lax.scan(recomputed(step, self._recompute), x, (self.weights, self.state, rngs))
    return x
