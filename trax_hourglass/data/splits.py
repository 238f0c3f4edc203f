"""The splits of a user's own files: as their names say, or shared out, 90 % train, 5 % valid and 5 % test."""

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
FEW = 100  # From this many files on each goes by its name; fewer are too uneven a lot.


def check_rule(rule):
  """Raises InputError unless it is one of RULES."""
  if rule not in RULES:
    raise InputError(f'splits is {rule!r}: choose one of {", ".join(map(repr, RULES))}')


def named(names):
  """Returns the splits that a user has made, and how they came about.

  What lies at the top, files or folders, must be named after splits, in letters of any case: train or training; valid,
  validation, val or dev; test or testing. A file's name may have other words before and after, such as wiki.train.raw.
  Two splits at least must be there, and nothing else beside them: so a class of images called `train` is none. A folder
  that holds all there is does not count.

  Args:
    names: of the files, relative to the corpus' folder, with slashes.

  Returns:
    ({split: names} or None, what to tell the user). Without a valid split there is none in the dictionary.
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
  """Returns how many of n things are taken from the end of train where there is no valid split."""
  return max(1, n * _PERCENT[1] // 100)


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
  each = held_out(n)
  return [0, n - 2 * each, n - each, n]
