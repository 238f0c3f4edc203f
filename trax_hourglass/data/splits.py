"""Splits a user's own files as their names say, or else into 90 % train, 5 % valid and 5 % test."""

import bisect
import hashlib
import itertools
import re

from trax_hourglass.data.corpus import SPLITS
from trax_hourglass.runtime.errors import InputError

_PERCENT = (90, 5, 5)  # As for enwik8.
_NAMES = {'train': ('train', 'training'), 'valid': ('valid', 'validation', 'val', 'dev'), 'test': ('test', 'testing')}
_SPLIT_OF = {name: split for split, names in _NAMES.items() for name in names}
RULES = ('named', 'shared')
FEW = 100  # From this many files on, splits are drawn by file name; fewer would be too uneven.


def check_rule(rule):
  """Raises InputError unless the rule is one of RULES."""
  if rule not in RULES:
    raise InputError(f'splits is {rule!r}: choose one of {", ".join(map(repr, RULES))}')


def named(names):
  """Returns the splits that a user has named, and a description of them.

  All top-level files and folders must be named after splits, in any letter case. The names are train or training, then
  valid, validation, val or dev, and test or testing. A file name may have other words before and after, such as
  wiki.train.raw.

  At least two splits must exist, with nothing else beside them, so that an image class called `train` is not a split. A
  folder around everything is ignored.

  Args:
    names: names of the files, relative to the corpus' folder, with slashes.

  Returns:
    ({split: names} or None, text for the user). A missing valid split is not in the dictionary.
  """
  rows = [name.split('/') for name in names]
  while rows and all(len(row) > 1 and row[0] == rows[0][0] for row in rows) and rows[0][0].lower() not in _SPLIT_OF:
    rows = [row[1:] for row in rows]
  found = {split: [] for split in SPLITS}
  others = {}
  for name, (top, *below) in zip(names, rows):
    split = _split_of(top, is_folder=bool(below))
    found[split].append(name) if split else others.setdefault(top)
  found = {split: of_split for split, of_split in found.items() if of_split}
  if len(found) < 2:
    return None, 'no splits in the names of files and folders'
  if others:
    return None, f'{" and ".join(found)} are no splits here, since {next(iter(others))!r} lies beside them'
  return found, f'{", ".join(found)} as files and folders are named'


def _split_of(name, is_folder):
  words = [name.lower()] if is_folder else re.split(r'[._ -]+', name.lower())
  found = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
  return found.pop() if len(found) == 1 else None


def held_out(n):
  """Returns the number of n items that are held out from the end of train if there is no valid split."""
  return max(1, n * _PERCENT[1] // 100)


def of_name(name):
  """Returns a file's split, which depends on its name alone and so does not change with other files."""
  lot = int.from_bytes(hashlib.sha256(name.encode(errors='surrogateescape')).digest()[:8], 'big') % 100
  return SPLITS[bisect.bisect_right(list(itertools.accumulate(_PERCENT)), lot)]


def of_names(names):
  """Returns {split: names}, by `of_name`, or by position for fewer than `FEW` names.

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
  """Returns where the splits of n items in order begin, and n; from three items on, each split gets at least one."""
  each = held_out(n)
  return [0, n - 2 * each, n - each, n]
