"""Creates NumPy's random bit generators from seeds."""

import numpy as np


def philox(seed, number):
  """Returns NumPy's Philox bit generator for a seed and a number, such as a step."""
  return np.random.Philox(key=np.array([seed, number], np.uint64))  # Numbers of a list may pass through float64.
