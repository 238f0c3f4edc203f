"""Sharing out what has no published splits: 90 % train, 5 % valid, 5 % test."""

import bisect
import hashlib
import itertools

from trax_hourglass.data.corpus import SPLITS
from trax_hourglass.runtime.errors import InputError

_PERCENT = (90, 5, 5)  # As for enwik8.
FEW = 100  # From this many files on each goes by its name; fewer are too uneven a lot.


def of_name(name):
  """Returns a file's split, which depends on its name alone, so that it stays where other files come and go."""
  lot = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'big') % 100
  return SPLITS[bisect.bisect_right(list(itertools.accumulate(_PERCENT)), lot)]


def of_names(names):
  """Returns {split: names}: by `of_name`, or by position where there are fewer than `FEW`.

  Raises:
    InputError: there are fewer names than splits.
  """
  if len(names) < FEW:
    if len(names) < len(SPLITS):
      raise InputError(f'{len(names)} files are too few for the splits {", ".join(SPLITS)}: give {len(SPLITS)} or more')
    bounds = positions(len(names))
    return {split: names[first:last] for split, first, last in zip(SPLITS, bounds, bounds[1:])}
  by_split = {split: [] for split in SPLITS}
  for name in names:
    by_split[of_name(name)].append(name)
  return by_split


def positions(n):
  """Returns where the splits of n things in a row begin, and n; each gets at least one of three or more."""
  held_out = max(1, n * _PERCENT[1] // 100)
  return [0, n - 2 * held_out, n - held_out, n]
