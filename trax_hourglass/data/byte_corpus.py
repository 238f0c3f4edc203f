"""Reads files as one long sequence of bytes with a train, a valid and a test split.

Bytes are read on demand, so memory does not grow with the corpus. Compressed files are decompressed into the cache
once.
"""

import os
import pathlib
import sysconfig

from trax_hourglass.data.corpus import Corpus
from trax_hourglass.data.corpus import SPLITS
from trax_hourglass.data.corpus import Tokens
from trax_hourglass.data import folders
from trax_hourglass.data import splits as splits_lib
from trax_hourglass.data import text_files
from trax_hourglass.runtime.errors import InputError


class ByteCorpus(Corpus):
  """Holds the bytes of a file, of all files of a folder or an archive, or of the running Python's standard library.

  Files compressed as .gz, .xz, .bz2 or .zst are decompressed, whatever their names. Links are followed. Binary files
  beside texts are left out, see `text_files.leave_out_binaries`.

  Splits named by the user are kept, see `splits.named`. Otherwise, a folder of at least 100 files is split by file, by
  a hash of each file's path relative to the folder. Adding or removing files does not change the splits of others.
  Anything else is split by position: the first 90 % are train, then 5 % valid and 5 % test.
  """

  def __init__(self, path=None, splits='named'):
    """Finds the files.

    Args:
      path: a file, a folder, or a .zip or .tar of files; None takes the standard library's .py files, without tests and
        site-packages.
      splits: 'named', or 'shared', which ignores split names and reads all files as stored, as runs of version 0.2 and
        before do.

    Raises:
      InputError: the path does not exist, `splits` has another value, or there are too few bytes for splits.
    """
    if not isinstance(path, (str, os.PathLike, type(None))):
      raise InputError(f'corpus path is {path!r}: give the name of a file or folder, or None')
    splits_lib.check_rule(splits)
    root = pathlib.Path(sysconfig.get_path('stdlib') if path is None else path).expanduser()
    if not root.exists():
      raise InputError(f'corpus {str(root)!r} does not exist: give a file or a folder')
    if splits == 'shared' or path is None:
      files, left_out = text_files.as_they_are(root, python_sources_only=path is None)
    else:
      files, left_out = text_files.unpacked(root)
      left_out |= text_files.leave_out_binaries(files)
    left_out['empty'] = sum(not file.size for file in files)
    files = [file for file in files if file.size]
    total = sum(file.size for file in files)
    if total < len(SPLITS):
      raise InputError(f'corpus {str(root)!r} has {total} bytes: at least {len(SPLITS)} are needed, one for each of '
                       f'{", ".join(SPLITS)}')
    by_split, how = splits_lib.named([file.name for file in files]) if splits == 'named' else (None, 'splits = shared')
    if by_split is not None:
      found, how = _by_name(files, by_split, how)
    elif len(files) >= splits_lib.FEW:
      found, how = _by_file(files), f'{how}: divided by file'
    else:
      found, how = _by_position(files, total), f'{how}: divided by position'
    super().__init__(root.name, {split: lambda tokens=tokens: tokens for split, tokens in found.items()},
                     missing={split: f'no file or folder of {str(root)!r} is named after it' for split in SPLITS})
    self.summary = f'{root}: {len(files):,} files, {total:,} bytes; {how}{folders.told(left_out)}'


def _by_file(files):
  stretches = {split: [] for split in SPLITS}
  for file in files:
    stretches[splits_lib.of_name(file.name)].append((file.path, file.first, file.size))
  return {name: Tokens(s) for name, s in stretches.items()}


def _by_name(files, by_split, how):
  """Returns the named splits, a missing valid cut from the end of train, and a description of the splits."""
  found, file_of = {}, {file.name: file for file in files}
  for split, names in by_split.items():
    of_split = [file_of[name] for name in names]
    n = sum(file.size for file in of_split)
    if split == 'train' and 'valid' not in by_split:
      first = n - splits_lib.held_out(n)
      found |= _cut(of_split, ('train', 'valid'), (0, first, n))
      how += f', valid is the last {n - first:,} bytes of train'
    else:
      found |= _cut(of_split, (split,), (0, n))
  return found, how


def _by_position(files, total):
  return _cut(files, SPLITS, splits_lib.positions(total))


def _cut(files, names, bounds):
  """Cuts the concatenated files at the bounds and returns {name: Tokens}."""
  splits = {}
  for name, first, last in zip(names, bounds, bounds[1:]):
    stretches, position = [], 0
    for file in files:
      begin, end = max(first, position), min(last, position + file.size)
      if begin < end:
        stretches.append((file.path, file.first + begin - position, end - begin))
      position += file.size
    splits[name] = Tokens(stretches)
  return splits
