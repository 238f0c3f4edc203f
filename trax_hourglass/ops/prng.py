"""Splits random keys among a model's layers by one multiplication and one addition.

Every Trax combinator splits its key among its layers. JAX's generator, built to pass any statistical test, takes a
hundred operations per split. These splits came to be most of the program that XLA compiles. Keys that only distinguish
dropout masks do not need this quality, since the masks are hashes of the keys (dropout.py).
"""

import functools

import jax.numpy as jnp
import numpy as np

_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio; spreads consecutive integers over 32 bits.


def mix(bits):
  """Hashes uint32 values one to one: each input bit flips each output bit about half of the time.

  The shifts and factors are Ellis' `lowbias32` (bias .17), found by a search over hashes of this form.
  """
  bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
  bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
  return bits ^ (bits >> 16)


def spread(numbers):
  """Returns uint32 values, far from each other, for consecutive integers."""
  return numbers.astype(jnp.uint32) * jnp.uint32(_GOLDEN)


def split(key, num=2):
  """Splits a key into `num` keys: uint32 (2,) -> (num, 2).

  Key i is an affine map of each word, modulo 2**32, with an odd factor and a summand fixed for each i. These maps do
  not commute: the second layer within the third gets another key than the third within the second. Factors and summands
  are constants of the program.
  """
  factors, summands = _affine_maps(num)
  return key * factors + summands


@functools.cache
def _affine_maps(num):
  """Returns factors and summands, uint32 (num, 2) each; the maps of the first keys do not depend on `num`."""
  draws = np.random.Generator(np.random.Philox(key=0)).integers(2**32, size=(num, 2, 2), dtype=np.uint32)
  return draws[:, 0] | np.uint32(1), draws[:, 1]
