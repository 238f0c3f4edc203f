"""Seeds, and what NumPy draws from them."""

import numpy as np

from trax_hourglass.runtime.errors import InputError


def check_seed(seed):
  """Raises InputError unless it is a whole number that 63 bits hold."""
  if not isinstance(seed, int) or not 0 <= seed < 1 << 63:
    raise InputError(f'seed is {seed!r}: give a whole number, not below 0 and below 2^63')


def philox(seed, number):
  """Returns NumPy's Philox bits for thing `number`, such as a step, of a seed."""
  return np.random.Philox(key=np.array([seed, number], np.uint64))  # Numbers of a list may pass through float64.
