"""Computes affine maps, with gradients as plain matrix products.

By default JAX differentiates products of (B, L, D) arrays. XLA on a CPU then writes a transposed copy of the gradients
before it multiplies. That copy moves elements far apart in memory, which takes longer than the product itself.

Gradients of weights are summed in float32, over vectors and devices, and then rounded to the weights' type.

Letters: D width of inputs, F width of outputs.
"""

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from trax_hourglass.ops import remat
from trax_hourglass.ops import wide_sums


def affine(x, w, b):
  """Returns x w + b: (..., D), (D, F), (F,) -> (..., F)."""
  return checkpoint_name(_affine(x, w, b), remat.PRODUCT)


@jax.custom_vjp
def _affine(x, w, b):
  return (jnp.dot(x.reshape(-1, x.shape[-1]), w) + b).reshape(*x.shape[:-1], -1)


def _forward(x, w, b):
  return _affine(x, w, b), (x, w)


def _backward(saved, d_out):
  x, w = saved
  d_out = d_out.reshape(-1, d_out.shape[-1])
  dx = _product(d_out, w, 1, 1, d_out.dtype).reshape(x.shape)
  dw = _product(x.reshape(-1, x.shape[-1]), d_out, 0, 0, jnp.float32)
  db = d_out.sum(axis=0, dtype=jnp.float32)
  return dx, wide_sums.rounded(dw, w.dtype), wide_sums.rounded(db, w.dtype)


_affine.defvjp(_forward, _backward)


def _product(a, b, reduced_of_a, reduced_of_b, dtype):
  return jax.lax.dot_general(a, b, (((reduced_of_a,), (reduced_of_b,)), ((), ())), preferred_element_type=dtype)
