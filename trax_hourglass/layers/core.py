"""Provides the basic layers of all parts of a model: Trax's own, with different arithmetic.

Letters: B batch, L tokens or vectors, D width of inputs, F width of outputs.
"""

import math

import jax
import jax.numpy as jnp
from trax.layers import base
import trax.layers as tl

from trax_hourglass.ops import dropout
from trax_hourglass.ops.dense import affine
from trax_hourglass.ops.layer_norm import layer_norm
from trax_hourglass.ops.wide_sums import rounded
from trax_hourglass.ops.wide_sums import widened
from trax_hourglass.runtime import sharding


@jax.custom_vjp
def _rows(weights, tokens):
  return jnp.take(weights, tokens, axis=0, mode='clip')


def _forward(weights, tokens):
  return _rows(weights, tokens), (weights, tokens)


def _backward(saved, d_out):
  weights, tokens = saved
  gradient = jnp.zeros(weights.shape, jnp.float32)
  gradient = gradient.at[jnp.clip(tokens, 0, len(weights) - 1)].add(d_out.astype(jnp.float32))
  return rounded(gradient, weights.dtype), None


_rows.defvjp(_forward, _backward)


class Scope(tl.Serial):
  """Labels a Serial's operations with its name in compiled programs, profiles and `flops.by_scope`."""

  def forward(self, xs):
    with jax.named_scope(self.name):
      return super().forward(xs)


class Embedding(tl.Embedding):
  """Applies Trax's Embedding, with gradients summed in float32 for any activation type: tokens (B, L) -> (B, L, D).

  A byte that occurs a thousand times in a batch has a thousand terms in the gradient of its row. In bfloat16, with 8
  bits of precision, a running sum would round most terms away.
  """

  @sharding.gathers_weights
  def forward(self, tokens):
    return _rows(self.weights, tokens)


class Dense(tl.Dense):
  """Applies Trax's Dense through `affine`: (..., D) -> (..., F)."""

  @sharding.gathers_weights
  def forward(self, x):
    return affine(x, *self.weights)


class PositionalDropout(base.Layer):
  """Drops activations in mode 'train': (x: any shape) -> the same shape.

  Replaces `trax.layers.Dropout`: same distribution, same meaning of `shared_axes`, different random generator.
  """

  def __init__(self, rate, shared_axes=None, mode='train'):
    """Creates the layer.

    Args:
      rate: probability that an activation is dropped, in [0, 1).
      shared_axes: axes of the input along which all elements share one mask, or None.
      mode: 'train' drops; 'eval' and 'predict' return the input.

    Raises:
      InputError: the rate is outside [0, 1).
    """
    super().__init__(name=f'PositionalDropout_{rate}')
    dropout.validate_rate(rate)
    self._rate = rate
    self._shared_axes = tuple(shared_axes or ())
    self._mode = mode

  def forward(self, x):
    if self._mode != 'train' or self._rate == 0.0:
      return x
    shared = {axis % x.ndim for axis in self._shared_axes}
    shape = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))
    rows = jnp.arange(math.prod(shape[:-1])).reshape(shape[:-1] + (1,))
    return dropout.drop(x, self.rng, self._rate, rows, jnp.arange(shape[-1]))


class LayerNorm(tl.LayerNorm):
  """Applies layer norm in float32 whatever the type of activations: (B, L, D) -> (B, L, D)."""

  def forward(self, x):
    return layer_norm(x, *map(widened, self.weights), self._epsilon)
