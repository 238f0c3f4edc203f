"""Provides corpora for tests."""

import numpy as np


class Numbers:
  """Serves a split of the bytes 0, 1, 2 ..."""

  def __init__(self, n, example_length=None):
    self._n = n
    self.example_length = example_length

  def __len__(self):
    return self._n

  def read(self, start, length):
    assert 0 <= start and start + length <= self._n
    return np.arange(start, start + length) % 251
