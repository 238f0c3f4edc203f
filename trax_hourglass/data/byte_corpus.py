"""Files as one long sequence of bytes with a train, a valid and a test split.

Bytes are read from the files when they are asked for, so memory does not grow with the corpus; packed files are
unpacked into the cache once.
"""

import os
import pathlib
import sysconfig

from trax_hourglass.data import archives
from trax_hourglass.data import cache
from trax_hourglass.data.corpus import Corpus
from trax_hourglass.data.corpus import SPLITS
from trax_hourglass.data.corpus import Tokens
from trax_hourglass.data import folders
from trax_hourglass.data import splits as splits_lib
from trax_hourglass.runtime.errors import InputError

_NOT_SOURCES = ('test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__')


class ByteCorpus(Corpus):
  """Bytes of a file, of all files below a folder, or of the running Python's standard library.

  Files that are packed as .gz, .xz or .bz2, whatever their names, count as what they hold; links are followed.

  Splits are those that a user has made, see `splits.named`. Where there are none, a folder of at least 100 files is
  split by file, each file's split depending on its name alone (a hash of its path relative to the folder), so that it
  stays where other files come and go. Anything else is split by position: the first 90 % are train, then 5 % valid and
  5 % test.
  """

  def __init__(self, path=None, splits='named'):
    """Finds the files.

    Args:
      path: a file or folder; None takes the standard library's .py files, without tests and site-packages.
      splits: 'named'; or 'shared', which takes no splits from names, as runs of version 0.2 and before.

    Raises:
      InputError: the path does not exist, `splits` is another word, or there are too few bytes for splits.
    """
    if not isinstance(path, (str, os.PathLike, type(None))):
      raise InputError(f'corpus path is {path!r}: give the name of a file or folder, or None')
    splits_lib.check_rule(splits)
    root = pathlib.Path(sysconfig.get_path('stdlib') if path is None else path).expanduser()
    if not root.exists():
      raise InputError(f'corpus {str(root)!r} does not exist: give a file or a folder')
    files = _files(root, python_sources_only=path is None)
    by_name = [(file.relative_to(root).as_posix(), _unpacked(file)) for file in files]
    sized = [(name, file, file.stat().st_size) for name, file in by_name]
    sized = [of_one for of_one in sized if of_one[-1]]
    total = sum(size for *_, size in sized)
    if total < len(SPLITS):
      raise InputError(f'corpus {str(root)!r} has {total} bytes: at least {len(SPLITS)} are needed, one for each of '
                       f'{", ".join(SPLITS)}')
    by_split, how = splits_lib.named([name for name, *_ in sized]) if splits == 'named' else (None, 'splits = shared')
    if by_split is not None:
      found, how = _by_name(sized, by_split, how)
    elif len(sized) >= splits_lib.FEW:
      found, how = _by_file(sized), f'{how}: shared out by file'
    else:
      found, how = _by_position(sized, total), f'{how}: shared out by position'
    super().__init__(root.name, {split: lambda tokens=tokens: tokens for split, tokens in found.items()},
                     missing={split: f'no file or folder of {str(root)!r} is named after it' for split in SPLITS})
    self.summary = f'{root}: {len(sized):,} files, {total:,} bytes; {how}'


def _files(root, python_sources_only):
  """Returns the files of a corpus in a fixed order, hidden ones left out."""
  if root.is_file():
    return [root]
  names = folders.files_below(root)
  if python_sources_only:
    names = [name for name in names if name.endswith('.py') and not set(name.split('/')) & set(_NOT_SOURCES)]
  return [root / name for name in names]


def _unpacked(file):
  """Returns the file, or that of the cache with what it holds packed."""
  if archives.kind(file) not in archives.STREAMS:
    return file
  path = cache.folder() / f'unpacked-{file.name}-{cache.fingerprint([file])}'
  return cache.build(path, lambda: archives.content(file, None), str(file))


def _by_file(sized):
  stretches = {split: [] for split in SPLITS}
  for name, file, size in sized:
    stretches[splits_lib.of_name(name)].append((file, 0, size))
  return {name: Tokens(s) for name, s in stretches.items()}


def _by_name(sized, by_split, how):
  """Returns the splits by their names, valid from the end of train where it is missing, and how they came about."""
  found, file_of = {}, {of_one[0]: of_one for of_one in sized}
  for split, names in by_split.items():
    of_split = [file_of[name] for name in names]
    n = sum(size for *_, size in of_split)
    if split == 'train' and 'valid' not in by_split:
      first = n - splits_lib.held_out(n)
      found |= _cut(of_split, ('train', 'valid'), (0, first, n))
      how += f', valid is the last {n - first:,} bytes of train'
    else:
      found |= _cut(of_split, (split,), (0, n))
  return found, how


def _by_position(sized, total):
  return _cut(sized, SPLITS, splits_lib.positions(total))


def _cut(sized, names, bounds):
  """Cuts the files' concatenation: {name: Tokens between two bounds}."""
  splits = {}
  for name, first, last in zip(names, bounds, bounds[1:]):
    stretches, position = [], 0
    for _, file, size in sized:
      begin, end = max(first, position), min(last, position + size)
      if begin < end:
        stretches.append((file, begin - position, end - begin))
      position += size
    splits[name] = Tokens(stretches)
  return splits
