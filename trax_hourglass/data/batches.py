"""Batches of tokens as pure functions of seed and step, in the form Trax's tasks take: (tokens, targets, weights).

The model shifts its input itself, so targets are the tokens. Several hosts each read their own rows of one batch.

Letters: B batch, L tokens, H hosts.
"""

import numpy as np

from trax_hourglass.hourglass import check_vocabulary


class RandomWindows:
  """An endless iterator of batches of windows at random places; batch n depends on (seed, n) only.

  Set `step` to go on from any step.
  """

  def __init__(self, data, batch_size, length, seed, vocab_size, host=0, n_hosts=1):
    """Checks the sizes.

    Args:
      data: a split, with `len` and `read(start, length)`.
      batch_size: B, of all hosts together.
      length: L.
      seed: whole number.
      vocab_size: tokens at or above it are an error.
      host: number of this host; it reads rows host B / H .. (host + 1) B / H - 1 of each batch.
      n_hosts: H.

    Raises:
      ValueError: sizes below 1, a window longer than the data, or a batch that does not divide among the hosts.
    """
    check_sizes(batch_size, length)
    if length > len(data):
      raise ValueError(f'length {length} is longer than the training data, {len(data)} tokens: '
                       'shorten the length or give a larger corpus')
    if batch_size % n_hosts:
      raise ValueError(f'batch size {batch_size} does not divide among {n_hosts} hosts: give a multiple of {n_hosts}')
    self._data, self._batch_size, self._length = data, batch_size, length
    self._seed, self._vocab_size = seed, vocab_size
    self._host, self._n_hosts = host, n_hosts
    self.step = 0

  def __iter__(self):
    return self

  def __next__(self):
    generator = np.random.Generator(np.random.Philox(key=[self._seed, self.step]))
    starts = generator.integers(0, len(self._data) - self._length + 1, self._batch_size)
    own = self._batch_size // self._n_hosts
    starts = starts[self._host * own:(self._host + 1) * own]
    tokens = np.stack([self._data.read(start, self._length) for start in starts]).astype(np.int32)
    check_vocabulary(tokens, self._vocab_size)
    self.step += 1
    return tokens, tokens, np.ones(tokens.shape, np.float32)


def consecutive_windows(data, batch_size, length, max_tokens=None, n_rows=None, host=0, n_hosts=1):
  """Yields windows behind each other, each token once, as batches whose missing tokens have weight 0.

  Args:
    data: a split, with `len` and `read(start, length)`.
    batch_size: windows of a batch.
    length: L.
    max_tokens: stop after so many tokens; None for all.
    n_rows: B, at least batch_size; rows beyond it are empty, so that B divides among devices. None for batch_size.
    host: number of this host, which reads its own rows only.
    n_hosts: H, divides B.

  Yields:
    (tokens (B / H, L), weights (B / H, L)), and the number of tokens of all hosts' rows.

  Raises:
    ValueError: sizes below 1.
  """
  check_sizes(batch_size, length)
  own = (n_rows or batch_size) // n_hosts * length
  end = len(data) if max_tokens is None else min(max_tokens, len(data))
  for first in range(0, end, batch_size * length):
    n_tokens = min(batch_size * length, end - first)
    before = host * own
    n_own = min(max(0, n_tokens - before), own)
    tokens = np.zeros(own, np.int32)
    if n_own:
      tokens[:n_own] = data.read(first + before, n_own)
    weights = (np.arange(own) < n_own).astype(np.float32)
    yield tokens.reshape(-1, length), weights.reshape(-1, length), n_tokens


def check_sizes(batch_size, length):
  """Raises ValueError unless both are whole numbers above 0."""
  for name, value in (('batch_size', batch_size), ('length', length)):
    if not isinstance(value, int) or value < 1:
      raise ValueError(f'{name} is {value!r}: give a whole number above 0')
