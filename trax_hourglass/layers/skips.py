"""Maps the residual that bypasses a shortening, before coarser vectors are added: (B, L, D) -> (B, L, D)."""

import jax.numpy as jnp
from trax.layers import base

from trax_hourglass.layers.core import Dense
from trax_hourglass.ops.wide_sums import widened
from trax_hourglass.runtime.errors import InputError


class _Scaled(base.Layer):
  """Multiplies by one learned scalar, initially 1."""

  def forward(self, x):
    return (x.astype(jnp.float32) * widened(self.weights)).astype(x.dtype)

  def init_weights_and_state(self, _):
    self.weights = jnp.ones((), jnp.float32)


def _zeros(shape, rng):
  del rng
  return jnp.zeros(shape, jnp.float32)


# The paper's; a learned scalar, as in HDiT (arXiv 2401.11605); a map initially 0, as in H-Net (arXiv 2507.07955).
_KINDS = {
    'identity': lambda width: [],
    'scaled': lambda width: [_Scaled(name='ScaledSkip')],
    'linear': lambda width: [Dense(width, kernel_initializer=_zeros, bias_initializer=_zeros)],
}


def layers(kind, width):
  """Returns the layers of a skip.

  Args:
    kind: 'identity', 'scaled' or 'linear'.
    width: D.

  Raises:
    InputError: the kind is none of these.
  """
  if kind not in _KINDS:
    raise InputError(f'skip is {kind!r}: choose one of {", ".join(map(repr, _KINDS))}')
  made = _KINDS[kind](width)
  for layer in made:
    layer._is_skip = True  # models/interop.py reads it.  pylint: disable=protected-access
  return made
