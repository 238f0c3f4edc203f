"""A random order of n things in no memory: where one of them goes is computed alone.

A Feistel network over the smallest domain of 2^(2b) numbers that holds n, whose rounds mix one half of b bits into the
other by a hash (so that it is a bijection, whatever the hash); a number that comes out at n or above goes through again
until it is below ("cycle walking", Black and Rogaway 2002), which takes 4 turns at most on average.
"""

import numpy as np

N_KEYS = 8  # Rounds; halves are a few bits only where n is small.


def permuted(numbers, n, keys):
  """Returns where a permutation of 0 .. n - 1 takes some numbers.

  Args:
    numbers: whole numbers of 0 .. n - 1, any shape.
    n: how many there are, 1 .. 2^62.
    keys: N_KEYS random uint64, which choose the permutation.

  Returns:
    int64, of the shape of numbers.
  """
  half = np.uint64(max(1, -(-(n - 1).bit_length() // 2)))
  x = _feistel(np.asarray(numbers, np.uint64), half, keys)
  while (outside := x >= n).any():
    x[outside] = _feistel(x[outside], half, keys)
  return x.astype(np.int64)


def _feistel(x, half, keys):
  mask = (np.uint64(1) << half) - np.uint64(1)
  left, right = x >> half, x & mask
  for key in keys:
    left, right = right, left ^ (_hash(right ^ key) & mask)
  return left << half | right


def _hash(x):
  """The finaliser of splitmix64 (Steele et al. 2014); products wrap."""
  x = (x ^ x >> np.uint64(30)) * np.uint64(0xbf58476d1ce4e5b9)
  x = (x ^ x >> np.uint64(27)) * np.uint64(0x94d049bb133111eb)
  return x ^ x >> np.uint64(31)
