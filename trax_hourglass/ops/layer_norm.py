"""Computes layer norm in float32, and keeps two numbers per vector beside its input for the backward pass.

Letters: D width of vectors.
"""

import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from trax_hourglass.ops import remat

_KEEPS = jax.checkpoint_policies.save_only_these_names(remat.SAVED)


@functools.partial(jax.checkpoint, policy=_KEEPS, prevent_cse=False, static_argnums=3)
def layer_norm(x, scale, bias, epsilon):
  """Returns (x - mean) / sqrt(variance + epsilon) * scale + bias, over the last axis: (..., D) -> (..., D).

  The variance is E x^2 - (E x)^2, as in Flax. On a TPU it takes one pass over x together with the mean, and not two.
  It loses digits only where the mean is many standard deviations away from 0.

  Args:
    x: vectors of any type; the result has the same.
    scale: float32 (D,).
    bias: float32 (D,).
    epsilon: number added to the variance.
  """
  wide = x.astype(jnp.float32)
  mean = jnp.mean(wide, axis=-1, keepdims=True)
  variance = jnp.maximum(jnp.mean(wide * wide, axis=-1, keepdims=True) - mean * mean, 0)
  # Rematerialization would take a pass over all vectors for these.
  mean, inverse = (checkpoint_name(one, remat.SAVED) for one in (mean, jax.lax.rsqrt(variance + epsilon)))
  return ((wide - mean) * inverse * scale + bias).astype(x.dtype)
