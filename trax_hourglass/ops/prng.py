"""Random keys of a model's layers by one multiplication and one addition.

Every Trax combinator splits its key among its layers. With JAX's generator, built to withstand any statistical test,
that is a hundred operations each time, and the splits became most of the program that XLA has to compile. Keys that
only tell one dropout mask from another do not need it: what is drawn with a key is a hash of it (dropout.py).
"""

import functools

import jax.numpy as jnp
import numpy as np

_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio: spreads consecutive integers over 32 bits.


def mix(bits):
  """Scrambles uint32 values, one to one: each input bit flips each output bit about half of the time.

  The shifts and factors are Ellis' `lowbias32` (bias .17, found by search over this form of hash).
  """
  bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
  bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
  return bits ^ (bits >> 16)


def spread(numbers):
  """Returns uint32 values, far from each other, for whole numbers."""
  return numbers.astype(jnp.uint32) * jnp.uint32(_GOLDEN)


def split(key, num=2):
  """Returns `num` keys made from one: uint32 (2,) -> (num, 2).

  Key i is an affine map of each word, modulo 2**32, whose odd factor and summand belong to i. Such maps do not commute:
  the second layer within the third is not the third within the second. Factors and summands are constants of the
  program.
  """
  factors, summands = _affine_maps(num)
  return key * factors + summands


@functools.cache
def _affine_maps(num):
  """Returns factors and summands, uint32 (num, 2) each; the first ones are the same whatever `num` is."""
  draws = np.random.Generator(np.random.Philox(key=0)).integers(2**32, size=(num, 2, 2), dtype=np.uint32)
  return draws[:, 0] | np.uint32(1), draws[:, 1]
