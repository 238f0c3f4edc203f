"""Computes relative and rotary positions of queries and keys.

Letters: B batch, L vectors of a level, H heads, D model width, E width of a head. P queries per group, A keys per
group; M groups, K = M A keys. See attention.py for the geometry.
"""

import jax
import jax.numpy as jnp
import numpy as np


def skew(x, step):
  """Shifts row i of (..., n, width) left by (n - 1 - i) * step and keeps the first width - step columns.

  Rows are contiguous in memory, so the shift is a change of row length. The barrier makes XLA read this memory in
  order, instead of computing the row and column of each element.
  """
  *lead, n, width = x.shape
  flat = jax.lax.optimization_barrier(x.reshape(*lead, n * width))
  kept = width - step
  return flat[..., step * (n - 1):step * (n - 1) + n * kept].reshape(*lead, n, kept)


def distances(n_groups, queries_per_group, keys_per_group):
  """Returns the relative positions r = key - query that occur, (P, K), in units of the finer of the two sequences.

  Column s belongs to the key s - A (M - 1) places after the first key of the query's group.

  Args:
    n_groups: M.
    queries_per_group: P.
    keys_per_group: A.
  """
  keys_ahead = np.arange(-keys_per_group * (n_groups - 1), keys_per_group)
  return queries_per_group * keys_ahead[None, :] - np.arange(queries_per_group)[:, None]


def sinusoids(positions, d_model):
  """Returns sines of all frequencies, then cosines, (..., D), for positions (...); arXiv 1901.02860, as in Trax."""
  angles = jnp.asarray(positions, jnp.float32)[..., None] * _frequencies(d_model)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _frequencies(width):
  return 1 / 10000 ** (jnp.arange(0.0, width, 2.0) / width)


def rotated(x, positions):
  """Returns queries or keys (B, L, H, E), E even, rotated by angles proportional to their positions (L,)."""
  angles = positions[:, None] * _frequencies(x.shape[-1])
  sines, cosines = (f(angles)[None, :, None, :] for f in (jnp.sin, jnp.cos))
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([first * cosines - second * sines, first * sines + second * cosines], axis=-1)
  return turned.astype(x.dtype)
