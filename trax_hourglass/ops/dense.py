"""Affine maps, with gradients as plain products of matrices.

Left to itself JAX differentiates products of (B, L, D) arrays, and XLA on a CPU then writes gradients out a second
time, transposed, before it multiplies: elements that lie apart in memory, slower to move than to compute with.

Letters: D width of inputs, F width of outputs.
"""

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from trax_hourglass.ops import remat


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
  dx = _product(d_out, w, 1, 1).reshape(x.shape)
  return dx, _product(x.reshape(-1, x.shape[-1]), d_out, 0, 0), d_out.sum(axis=0)


_affine.defvjp(_forward, _backward)


def _product(a, b, reduced_of_a, reduced_of_b):
  return jax.lax.dot_general(a, b, (((reduced_of_a,), (reduced_of_b,)), ((), ())))
