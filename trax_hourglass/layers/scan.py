"""Scans over layers: a stack of N equal blocks, compiled once whatever N is.

In mode 'predict' blocks keep separate states, and single-token steps run the blocks one by one. A scan would copy each
block's caches, and on a CPU its weights too, out of the stack and back for every token.

Letters: N blocks, B batch, L vectors, D model width.
"""

import contextvars
import typing

import jax
import jax.numpy as jnp
from trax import fastmath
from trax.layers import base

from trax_hourglass.ops import remat
from trax_hourglass.runtime import sharding

_shapes_alone = contextvars.ContextVar('shapes_alone', default=False)


def initialised_shapes(initialise):
  """Returns `jax.eval_shape(initialise)`, initialising only one block of each stack, since all are alike."""
  token = _shapes_alone.set(True)
  try:
    return jax.eval_shape(initialise)
  finally:
    _shapes_alone.reset(token)


class Scanned(base.Layer):
  """Applies N copies of a block in series: (x (B, L, D), inputs shared by all blocks ...) -> (B, L, D).

  The block maps (x, shared ...) to a new x. Weights and states are the block's with a leading axis N, first block
  first. In mode 'predict' the state is a tuple of the N blocks' states, and weights may also come as `Unstacked`.
  """

  def __init__(self, block, n_blocks, recompute, decodes=False):
    """Creates the layer.

    Args:
      block: a layer whose one output has the shape of its first input; the pattern of all N blocks.
      n_blocks: N, at least 1.
      recompute: rematerialization policy, see remat.py.
      decodes: whether the mode is 'predict'.
    """
    super().__init__(n_in=block.n_in, name=f'Scanned_{n_blocks}', sublayers_to_print=[block])
    self._block = block
    self._n_blocks = n_blocks
    self._recompute = recompute
    self._decodes = decodes

  @property
  def block(self):
    """Returns the layer that all blocks are patterned on."""
    return self._block

  @property
  def n_blocks(self):
    """Returns N."""
    return self._n_blocks

  def init_weights_and_state(self, input_signature):
    rngs = fastmath.random.split(self.rng, self._n_blocks)
    if _shapes_alone.get():
      blocks = [init_pattern(self._block, input_signature, rngs[0])] * self._n_blocks
    else:
      blocks = [init_pattern(self._block, input_signature, rng) for rng in rngs]
    weights, states = zip(*blocks)
    self.weights = _stacked(weights)
    self.state = states if self._decodes else _stacked(states)

  def forward(self, inputs):
    x, *shared = inputs if self.n_in > 1 else (inputs,)
    if _shapes_alone.get():  # The block was traced when it was initialised.
      return x

    def step(x, shared, weights, state_and_rng):
      state, rng = state_and_rng
      x, weights = sharding.own_rows(x), sharding.gathered(weights, in_stack=True)
      with sharding.all_gathered():
        return self._block.pure_fn((x, *shared) if shared else x, weights, state, rng)

    rngs = fastmath.random.split(self.rng, self._n_blocks)
    if self._decodes and x.shape[1] == 1:
      blocks = self.weights.blocks if isinstance(self.weights, Unstacked) else _blocks(self.weights, self._n_blocks)
      states = []
      for weights, *state_and_rng in zip(blocks, self.state, rngs):
        x, state = step(x, shared, weights, state_and_rng)
        states.append(state)
      self.state = tuple(states)
      return x
    state = _stacked(self.state) if self._decodes else self.state
    x, state = remat.looped(step, self._recompute, x.dtype)(x, shared, self.weights, (state, rngs))
    self.state = _blocks(state, self._n_blocks) if self._decodes else state
    return x


def init_pattern(layer, input_signature, rng):
  """Returns new weights and state of a layer that another layer owns and calls through `pure_fn`.

  The layer itself keeps shapes only. Otherwise its reference to the initial weights would never free their memory.
  """
  weights, state = layer.init(input_signature, rng=rng)
  layer.weights = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), weights)
  return weights, state


class Unstacked(typing.NamedTuple):
  """Holds the weights of a Scanned block by block, for steps of mode 'predict'; see `unstacked`."""
  blocks: tuple


def unstacked(layer, weights):
  """Returns a model's weights with each Scanned's split by block, so that compiled steps need not split them.

  Args:
    layer: the model.
    weights: its weights; the result takes the same amount of memory again.
  """
  return _mapped(layer, weights, lambda stack, w: Unstacked(_blocks(w, stack.n_blocks)), lambda _, w: w)


def cast_outside(layer, weights, dtype):
  """Returns a model's weights cast to a type, except those of each Scanned, which casts them block by block."""
  return _mapped(layer, weights, lambda _, w: w, lambda _, w: remat.cast(w, dtype))


def gathered_outside(layer, weights):
  """Returns a model's weights, gathered except where a layer gathers its own, as Scanned and Dense do.

  Args:
    layer: the model.
    weights: its weights, sharded by FSDP.
  """
  gathers = lambda layer: getattr(type(layer).forward, 'gathers_weights', False)
  return _mapped(layer, weights, lambda _, w: w, lambda other, w: w if gathers(other) else sharding.gathered(w))


def _mapped(layer, weights, of_stack, of_other):
  if isinstance(weights, dict):  # A marker of weights that another layer holds.
    return weights
  if isinstance(layer, Scanned):
    return of_stack(layer, weights)
  if not layer.sublayers:
    return of_other(layer, weights)
  return tuple(_mapped(sublayer, w, of_stack, of_other) for sublayer, w in zip(layer.sublayers, weights))


def _stacked(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _blocks(tree, n):
  return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(n))
