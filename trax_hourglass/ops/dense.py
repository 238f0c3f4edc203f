"""Computes affine maps, with gradients as plain matrix products.

By default JAX differentiates products of (B, L, D) arrays. XLA on a CPU then writes a transposed copy of the gradients
before it multiplies. That copy moves elements far apart in memory, which takes longer than the product itself.

On a TPU, arrays keep their axes. Its memory has tiles of rows, and to flatten (B, L) would copy the array if L does not
fill whole tiles.

Gradients of weights are summed in float32, over vectors and devices, and then rounded to the weights' type.

Letters: D width of inputs, F width of outputs.
"""

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from trax_hourglass.ops import remat
from trax_hourglass.ops import wide_sums
from trax_hourglass.runtime import sharding


def affine(x, w, b):
  """Returns x w + b: (..., D), (D, F), (F,) -> (..., F)."""
  return checkpoint_name(_affine(x, w, b), remat.PRODUCT)


@jax.custom_vjp
def _affine(x, w, b):
  rows = _rows(x)
  return (_product(rows, w, (rows.ndim - 1,), (0,), x.dtype) + b).reshape(*x.shape[:-1], -1)


def _forward(x, w, b):
  return _affine(x, w, b), (x, w)


def _backward(saved, d_out):
  x, w = saved
  rows, d_rows = _rows(x), _rows(d_out)
  all_but_last = tuple(range(rows.ndim - 1))
  dx = _product(d_rows, w, (rows.ndim - 1,), (1,), x.dtype).reshape(x.shape)
  dw = _product(rows, d_rows, all_but_last, all_but_last, jnp.float32)
  db = _sum(d_rows, all_but_last)
  return dx, wide_sums.rounded(dw, w.dtype), wide_sums.rounded(db, w.dtype)


_affine.defvjp(_forward, _backward)


def _rows(x):
  """Flattens all axes but the last: (..., D) -> (N, D); on a TPU returns the array as it is."""
  return x if sharding.platform() == 'tpu' else x.reshape(-1, x.shape[-1])


def _sum(x, axes):
  """Returns the float32 sum over all axes but the last: (..., F) -> (F,).

  A TPU's matrix unit adds rows in less than half of the vector unit's time. It multiplies by 8 rows of ones, since XLA
  would turn a product with one row back into a sum.
  """
  if sharding.platform() != 'tpu':
    return x.sum(axis=axes, dtype=jnp.float32)
  return _product(jnp.ones((*x.shape[:-1], 8), x.dtype), x, axes, axes, jnp.float32)[0]


def _product(a, b, reduced_of_a, reduced_of_b, dtype):
  return jax.lax.dot_general(a, b, ((reduced_of_a, reduced_of_b), ((), ())), preferred_element_type=dtype)
