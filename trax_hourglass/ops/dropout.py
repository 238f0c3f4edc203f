"""Dropout whose mask is a pure function of (key, position).

`jax.random.bernoulli` costs about 16 ns an element on a CPU core; in a step of the authors' Hourglass it takes longer
than half of all matrix products. A mask here is a hash of the element's coordinates, some 50 times cheaper. Being
addressed by position it also needs no memory: any block of it can be made again, in any order, on any device, in the
forward or the backward pass, and is always the same.

Letters: R rows (all axes but the last, flattened), C columns (the last axis).
"""

import jax.numpy as jnp

from trax_hourglass.ops import prng
from trax_hourglass.runtime.errors import InputError


def keep_mask(key, rows, columns, rate):
  """Returns which elements survive dropout.

  Args:
    key: JAX PRNG key of two words, uint32 (2,).
    rows: uint32 array, the row number of each element; broadcasts against `columns`.
    columns: uint32 array, the column number of each element.
    rate: probability that an element is dropped, in [0, 1).

  Returns:
    Boolean array of the broadcast shape, True with probability 1 - rate, the same for the same key, row and column.
  """
  return survivors(hashed(rows, key[0]), hashed(columns, key[1]), rate)


def hashed(numbers, word):
  """Returns hashes, uint32, of row numbers with a key's first word, or of column numbers with its second."""
  return prng.mix(prng.spread(numbers) + word)


def survivors(rows, columns, rate):
  """Returns `keep_mask` of `hashed` row and column numbers."""
  return prng.mix(columns ^ rows) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def key_from_row(key, row):
  """Returns the keys (..., 2) with which `keep_mask` gives row 0 what it gives row `row` with `key` (..., 2)."""
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
