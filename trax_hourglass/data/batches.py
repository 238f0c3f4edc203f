"""Computes batches of tokens as pure functions of seed and step, in Trax's form (tokens, targets, weights).

The model shifts its own input, so the targets equal the tokens. Each of several hosts reads its own rows of a batch.

Letters: B batch, L tokens, H hosts.
"""

import abc

import numpy as np

from trax_hourglass.data import permutation
from trax_hourglass.runtime.checks import check_vocabulary
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import checks
from trax_hourglass.runtime import seeds

_STARTS_AT_ONCE = 256


class Windows(abc.ABC):
  """Iterates over batches without end; batch n depends on (seed, n) only, so there is no state to save.

  Setting `step` resumes from any step. A subclass determines where the windows of a batch begin.
  """

  def __init__(self, data, batch_size, length, seed, vocab_size, host=0, n_hosts=1):
    """Checks the sizes.

    Args:
      data: a split, with `len`, `read(start, length)` and `example_length`.
      batch_size: B, of all hosts together.
      length: L.
      seed: whole number, not below 0 and below 2^63.
      vocab_size: exclusive upper bound of the tokens; others are an error.
      host: number of this host, which reads rows host B / H .. (host + 1) B / H - 1 of each batch.
      n_hosts: H.

    Raises:
      InputError: sizes below 1, a window that is longer than the data or cuts examples, a batch that does not divide
        among the hosts, or an invalid seed.
    """
    checks.check_sizes(batch_size=batch_size, length=length)
    if length > len(data):
      raise InputError(f'length {length} is longer than the training data, {len(data)} tokens: '
                       'shorten the length or give a larger corpus')
    if data.example_length and length % data.example_length:
      raise InputError(f'length {length} cuts examples of {data.example_length} tokens: set length = '
                       f'{data.example_length}')
    if batch_size % n_hosts:
      raise InputError(f'batch size {batch_size} does not divide among {n_hosts} hosts: give a multiple of {n_hosts}')
    checks.check_seed(seed)
    own = batch_size // n_hosts
    self._data, self._batch_size, self._length = data, batch_size, length
    self._seed, self._vocab_size = seed, vocab_size
    self._rows = slice(host * own, (host + 1) * own)
    self.step = 0

  def __iter__(self):
    return self

  def __next__(self):
    starts = self.starts(self.step)[self._rows]
    tokens = np.empty((len(starts), self._length), np.int32)
    for row, start in zip(tokens, starts.tolist()):
      row[:] = self._data.read(start, self._length)
    check_vocabulary(tokens, self._vocab_size)
    self.step += 1
    return tokens, tokens, np.ones(tokens.shape, np.float32)

  @abc.abstractmethod
  def starts(self, step):
    """Returns (B,), the positions in the data where the windows of a step's batch begin, for all hosts."""


class RandomWindows(Windows):
  """Draws windows at random, independently and with replacement; windows of examples begin with an example.

  Windows of a batch may therefore overlap or coincide, on one host or across hosts.
  """

  def starts(self, step):
    generator = np.random.Generator(seeds.philox(self._seed, step))
    unit = self._data.example_length or 1
    return generator.integers(0, (len(self._data) - self._length) // unit + 1, self._batch_size) * unit


class Epochs(Windows):
  """Visits consecutive windows, each once per epoch across all hosts, in a new order in each epoch.

  In running text, the first window of an epoch begins at a random token, so that each epoch cuts texts elsewhere. The
  fewer than 2 L tokens before the first and after the last window are left out of that epoch. Examples are all used,
  except for a remainder if L holds several. Batches continue from one epoch into the next.
  """

  _known = None, None

  def starts(self, step):
    # Many steps are computed at once: the overhead of NumPy calls dominates, whatever the number of windows.
    many = -(-_STARTS_AT_ONCE // self._batch_size)
    block, within = divmod(step, many)
    if self._known[0] != block:
      self._known = block, self._compute(block * many * self._batch_size, many * self._batch_size)
    return self._known[1][within * self._batch_size:(within + 1) * self._batch_size]

  def _compute(self, first, n):
    """Returns where n windows begin, from window number `first` of all epochs on."""
    size, length, unit = len(self._data), self._length, self._data.example_length
    # All epochs have one length, so that a window's epoch is known. The random offset takes the spare tokens.
    n_epoch = max(1, size // length if unit else (size - length + 1) // length)
    room = min(length - 1, size - n_epoch * length) // (unit or 1)
    starts = []
    while n:
      epoch, within = divmod(first, n_epoch)
      numbers = np.arange(within, min(within + n, n_epoch))
      generator = np.random.Generator(seeds.philox(self._seed, epoch))
      offset = generator.integers(0, room + 1) * (unit or 1)
      of_epoch = generator.integers(0, 1 << 64, permutation.N_KEYS, np.uint64)
      starts.append(offset + length * permutation.permuted(numbers, n_epoch, of_epoch))
      first, n = first + len(numbers), n - len(numbers)
    return np.concatenate(starts)
