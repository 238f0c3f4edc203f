"""Draws NumPy's random numbers from seeds."""

import numpy as np


def philox(seed, number):
  """Returns NumPy's Philox bits for thing `number`, such as a step, of a seed."""
  return np.random.Philox(key=np.array([seed, number], np.uint64))  # Numbers of a list may pass through float64.
