"""Defines corpora, the names of their splits, and tokens that are read from files on demand.

A corpus has `name`, `unit`, `vocab_size` and `split(name)`; a split has `len`, `read(start, length)` and
`example_length`. Positions and lengths are in tokens, which are bytes unless a corpus says otherwise.
"""

import bisect
import itertools
import os

import numpy as np

from trax_hourglass.runtime.errors import InputError

SPLITS = ('train', 'valid', 'test')


class Corpus:
  """Holds splits by name.

  Attributes:
    name: name of the corpus, for messages.
    unit: kind of token, 'byte', 'dim' (one colour of one pixel) or 'token' (a piece of a learnt vocabulary). Bits are
      counted per unit. Most classes define the unit, so that it is known before data are located.
    vocab_size: tokens are 0 .. vocab_size - 1.
    summary: one line about the data and the origin of the splits, or None.
  """
  unit = 'byte'
  summary = None

  def __init__(self, name, splits, vocab_size=256, missing=None):
    """Creates the corpus.

    Args:
      name: name of the corpus, for messages.
      splits: {split name: function of no argument that returns its `Tokens`}, called on first access to the split.
      vocab_size: see above.
      missing: {split name: why the split is missing and what to do}.
    """
    self.name, self.vocab_size = name, vocab_size
    self._makers, self._missing, self._made = splits, missing or {}, {}

  def split(self, name):
    """Returns the `Tokens` of a split.

    Args:
      name: 'train', 'valid' or 'test'.

    Raises:
      InputError: another name, or a split that this corpus does not hold.
    """
    if name not in SPLITS:
      raise InputError(f'split {name!r} does not exist: choose one of {", ".join(SPLITS)}')
    if name not in self._makers:
      held = f'it has {", ".join(self._makers)}'
      raise InputError(f'{self.name} has no {name} split: {self._missing.get(name, held)}')
    if name not in self._made:
      self._made[name] = self._makers[name]()
    return self._made[name]


class Tokens:
  """Concatenates stretches of files.

  Files are read and not memory-mapped: touched pages of a map count as resident memory, and random windows eventually
  touch the whole file. Reads are as fast, since the system's page cache serves them too.

  Attributes:
    example_length: tokens of one example (an image), or None for running text; windows begin at its multiples.
  """

  def __init__(self, stretches, dtype=np.uint8, example_length=None):
    """Stores the stretches.

    Args:
      stretches: list of (file, first token, number of tokens).
      dtype: type of the tokens in the files, in native byte order.
      example_length: see above.
    """
    self.example_length = example_length
    self._dtype = np.dtype(dtype)
    self._stretches = stretches
    self._ends = list(itertools.accumulate(n for _, _, n in stretches))

  def __len__(self):
    return self._ends[-1] if self._ends else 0

  def read(self, start, length):
    """Returns (length,) tokens from `start` on, in the files' type.

    Args:
      start: position of the first token.
      length: number of tokens.

    Raises:
      InputError: the tokens do not all exist, or a file has become shorter.
    """
    if start < 0 or start + length > len(self):
      raise InputError(f'tokens {start} .. {start + length - 1} are not all within 0 .. {len(self) - 1}')
    tokens = np.empty(length, self._dtype)
    number, done = bisect.bisect_right(self._ends, start), 0
    while done < length:
      file, first, n = self._stretches[number]
      within = start + done - (self._ends[number] - n)
      piece = tokens[done:done + n - within]
      _read(file, first + within, piece)
      done += len(piece)
      number += 1
    return tokens


def _read(file, first, into):
  """Fills an array with a file's tokens from number `first` on."""
  view, at = memoryview(into).cast('B'), first * into.itemsize
  # Opening takes a few microseconds each time, and avoids limits on open files and sharing between threads.
  descriptor = os.open(file, os.O_RDONLY)
  try:
    while view:
      n = os.preadv(descriptor, [view], at)
      if not n:
        raise InputError(f'corpus file {str(file)!r} became shorter while it was in use')
      view, at = view[n:], at + n
  finally:
    os.close(descriptor)
