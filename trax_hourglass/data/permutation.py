"""Computes single elements of a random permutation of n numbers, without storing the permutation.

A Feistel network permutes the smallest domain of 2^(2b) numbers that holds n. Its rounds mix one half of b bits into
the other by a hash, and form a bijection for any hash.

A number that comes out at n or above goes through the network again until it is below ("cycle walking", Black and
Rogaway 2002). This takes at most 4 passes on average.
"""

import numpy as np

N_KEYS = 8  # Rounds; only for small n, halves have just a few bits.


def permuted(numbers, n, keys):
  """Applies a permutation of 0 .. n - 1 to some numbers.

  Args:
    numbers: whole numbers of 0 .. n - 1, any shape.
    n: size of the permutation, 1 .. 2^62.
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
  """Applies the finaliser of splitmix64 (Steele et al. 2014), whose products wrap."""
  x = (x ^ x >> np.uint64(30)) * np.uint64(0xbf58476d1ce4e5b9)
  x = (x ^ x >> np.uint64(27)) * np.uint64(0x94d049bb133111eb)
  return x ^ x >> np.uint64(31)
