"""Batches of tokens as pure functions of seed and step, in the form Trax's tasks take: (tokens, targets, weights).

The model shifts its input itself, so targets are the tokens. Letters: B batch, L tokens.
"""

import numpy as np

from trax_hourglass.hourglass import check_vocabulary


class RandomWindows:
  """An endless iterator of batches of windows at random places; batch n depends on (seed, n) only.

  Set `step` to go on from any step.
  """

  def __init__(self, data, batch_size, length, seed, vocab_size):
    """Checks the sizes.

    Args:
      data: a split, with `len` and `read(start, length)`.
      batch_size: B.
      length: L.
      seed: whole number.
      vocab_size: tokens at or above it are an error.

    Raises:
      ValueError: sizes below 1, or a window longer than the data.
    """
    check_sizes(batch_size, length)
    if length > len(data):
      raise ValueError(f'length {length} is longer than the training data, {len(data)} tokens: '
                       'shorten the length or give a larger corpus')
    self._data, self._batch_size, self._length = data, batch_size, length
    self._seed, self._vocab_size = seed, vocab_size
    self.step = 0

  def __iter__(self):
    return self

  def __next__(self):
    generator = np.random.Generator(np.random.Philox(key=[self._seed, self.step]))
    starts = generator.integers(0, len(self._data) - self._length + 1, self._batch_size)
    tokens = np.stack([self._data.read(start, self._length) for start in starts]).astype(np.int32)
    check_vocabulary(tokens, self._vocab_size)
    self.step += 1
    return tokens, tokens, np.ones(tokens.shape, np.float32)

def consecutive_windows(data, batch_size, length, max_tokens=None):
  """Yields batches of windows behind each other, each token once; what is missing in the last batch has weight 0.

  Args:
    data: a split, with `len` and `read(start, length)`.
    batch_size: B.
    length: L.
    max_tokens: stop after so many tokens; None for all.

  Yields:
    (tokens (B, L), targets (B, L), weights (B, L)).

  Raises:
    ValueError: sizes below 1.
  """
  check_sizes(batch_size, length)
  end = len(data) if max_tokens is None else min(max_tokens, len(data))
  for first in range(0, end, batch_size * length):
    tokens = np.zeros(batch_size * length, np.int32)
    n = min(batch_size * length, end - first)
    tokens[:n] = data.read(first, n)
    tokens = tokens.reshape(batch_size, length)
    yield tokens, tokens, (np.arange(tokens.size) < n).astype(np.float32).reshape(tokens.shape)

def check_sizes(batch_size, length):
  """Raises ValueError unless both are whole numbers above 0."""
  for name, value in (('batch_size', batch_size), ('length', length)):
    if not isinstance(value, int) or value < 1:
      raise ValueError(f'{name} is {value!r}: give a whole number above 0')
