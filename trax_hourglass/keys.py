"""Random keys of a model's layers by a hash of a few operations.

Every Trax combinator splits its key among its layers. With JAX's generator, built to withstand any statistical test,
that is a hundred operations each time, and the splits became most of the program that XLA has to compile. Keys that only
tell one dropout mask from another do not need it.
"""

import contextlib
from unittest import mock

import jax
import jax.numpy as jnp
from trax.fastmath import jax as trax_jax

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
  """Returns `num` keys made from one: uint32 (2,) -> (num, 2); `jax.random.split` in few operations."""
  numbers = spread(jnp.arange(1, num + 1))
  first = mix(mix(numbers + key[0]) ^ key[1])
  keys = jnp.stack([first, mix(mix(numbers + key[1]) ^ first)], axis=-1)
  # Otherwise XLA works the chain of splits above a key out anew in each of the loops that use the key.
  return jax.lax.optimization_barrier(keys)


@contextlib.contextmanager
def cheap_splits():
  """Within it, `trax.fastmath.random.split` is this module's."""
  with mock.patch.dict(trax_jax.JAX_BACKEND, {'random_split': split}):
    yield
