"""Gives each level of the hierarchy a width, and converts vectors between widths.

As in H-Net (arXiv 2507.07955, section 2.3), vectors that enter a wider level are padded with a learned vector. On
return they are truncated. Both cost next to nothing.

Letters: B batch, L vectors, D width.
"""

import dataclasses
from fractions import Fraction

import jax.numpy as jnp
from trax.layers import base

from trax_hourglass.layers.attention import RelativeBiases
from trax_hourglass.ops.wide_sums import widened
from trax_hourglass.runtime.errors import InputError


class ToWidth(base.Layer):
  """Truncates vectors to a width, or pads them with a learned vector, initially 0: (B, L, D) -> (B, L, width)."""

  def __init__(self, width):
    super().__init__(name=f'ToWidth_{width}')
    self._width = width

  def init_weights_and_state(self, signature):
    missing = self._width - signature.shape[-1]
    self.weights = jnp.zeros((missing,), jnp.float32) if missing > 0 else ()

  def forward(self, x):
    if x.shape[-1] >= self._width:
      return x[..., :self._width]
    more = jnp.broadcast_to(widened(self.weights), (*x.shape[:-1], len(self.weights)))
    return jnp.concatenate([x, more.astype(x.dtype)], axis=-1)


def changed(spec, other):
  """Returns layers from the width of one BlockSpec to that of another; none if the widths are equal."""
  return [] if spec.d_model == other.d_model else [ToWidth(other.d_model)]


def specs(spec, n_levels, d_model, d_ff, n_heads):
  """Returns the BlockSpec of each level, top level first; levels of equal size share their relative biases.

  Args:
    spec: a BlockSpec of any sizes, for the other fields.
    n_levels: number of levels of the hierarchy.
    d_model: width of all levels, or a tuple with one width per level.
    d_ff: likewise; a number is the top level's, and other levels keep its ratio to d_model.
    n_heads: likewise; a number is the top level's, and other levels keep the width of a head.

  Raises:
    InputError: a tuple's length is not the number of levels, or a width does not fit d_ff or the heads.
  """
  widths = _each('d_model', d_model, n_levels, [1] * n_levels)
  ratios = [Fraction(width, widths[0]) if isinstance(width, int) and isinstance(widths[0], int) and widths[0] else 1
            for width in widths]
  sizes = zip(widths, _each('d_ff', d_ff, n_levels, ratios), _each('n_heads', n_heads, n_levels, ratios))
  biases, found = {}, []
  for width, inner, heads in sizes:
    one = dataclasses.replace(spec, d_model=width, d_ff=inner, n_heads=heads)  # Checks the sizes.
    found.append(dataclasses.replace(
        one, relative_biases=biases.setdefault((width, heads), RelativeBiases(width, heads))))
  return found


def _each(name, value, n_levels, ratios):
  """Returns a value for each level: the values of a tuple, or a number times each ratio."""
  if isinstance(value, (tuple, list)):
    if len(value) != n_levels:
      raise InputError(f'{name} is {value!r}: expected {n_levels} of them, one for each level of the hierarchy, or a '
                       'number')
    return list(value)
  if not isinstance(value, int):
    return [value] * n_levels
  for ratio in ratios:
    if (value * ratio).denominator != 1:
      raise InputError(f'{name} is {value} at the top and would be {float(value * ratio):g} at a level that is {ratio} '
                       f'times as wide: give {name} as a tuple, one for each level')
  return [int(value * ratio) for ratio in ratios]
