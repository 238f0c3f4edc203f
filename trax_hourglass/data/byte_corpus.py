"""Files as one long sequence of bytes with a train, a valid and a test split.

Bytes are read from the files when they are asked for, so memory does not grow with the corpus.
"""

import os
import pathlib
import sysconfig

from trax_hourglass.data.corpus import Corpus
from trax_hourglass.data.corpus import SPLITS
from trax_hourglass.data.corpus import Tokens
from trax_hourglass.data import splits as splits_lib
from trax_hourglass.runtime.errors import InputError

_NOT_SOURCES = ('test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__')


class ByteCorpus(Corpus):
  """Bytes of a file, of all files below a folder, or of the running Python's standard library.

  A folder of at least 100 files is split by file, each file's split depending on its name alone (a hash of its path
  relative to the folder), so that it stays where other files come and go. Anything else is split by position: the
  first 90 % are train, then 5 % valid and 5 % test.
  """

  def __init__(self, path=None):
    """Finds the files.

    Args:
      path: a file or folder; None takes the standard library's .py files, without tests and site-packages.

    Raises:
      InputError: the path does not exist, or there are fewer bytes than splits can be made of.
    """
    if not isinstance(path, (str, os.PathLike, type(None))):
      raise InputError(f'corpus path is {path!r}: give the name of a file or folder, or None')
    root = pathlib.Path(sysconfig.get_path('stdlib') if path is None else path).expanduser()
    if not root.exists():
      raise InputError(f'corpus {str(root)!r} does not exist: give a file or a folder')
    files = _files(root, python_sources_only=path is None)
    sized = [(file, file.stat().st_size) for file in files]
    sized = [(file, size) for file, size in sized if size]
    total = sum(size for _, size in sized)
    if total < len(SPLITS):
      raise InputError(f'corpus {str(root)!r} has {total} bytes: at least {len(SPLITS)} are needed, one for each of '
                       f'{", ".join(SPLITS)}')
    splits = _by_file(root, sized) if len(sized) >= splits_lib.FEW else _by_position(sized, total)
    super().__init__(root.name, {split: lambda tokens=tokens: tokens for split, tokens in splits.items()})


def _files(root, python_sources_only):
  """Returns the files of a corpus in a fixed order, hidden ones left out."""
  if root.is_file():
    return [root]
  files = []
  for file in root.rglob('*.py' if python_sources_only else '*'):
    parts = file.relative_to(root).parts
    if any(part.startswith('.') for part in parts) or (python_sources_only and set(parts) & set(_NOT_SOURCES)):
      continue
    if file.is_file():
      files.append(file)
  return sorted(files, key=lambda file: file.relative_to(root).as_posix())


def _by_file(root, sized):
  stretches = {name: [] for name in SPLITS}
  for file, size in sized:
    stretches[splits_lib.of_name(file.relative_to(root).as_posix())].append((file, 0, size))
  return {name: Tokens(s) for name, s in stretches.items()}


def _by_position(sized, total):
  """Cuts the files' concatenation."""
  bounds = splits_lib.positions(total)
  splits = {}
  for name, first, last in zip(SPLITS, bounds, bounds[1:]):
    stretches, position = [], 0
    for file, size in sized:
      begin, end = max(first, position), min(last, position + size)
      if begin < end:
        stretches.append((file, begin - position, end - begin))
      position += size
    splits[name] = Tokens(stretches)
  return splits
