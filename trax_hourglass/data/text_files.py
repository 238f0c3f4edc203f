"""Locates the texts of a user's file, folder or archive, decompresses them, and leaves out binary files."""

import collections
import pathlib
import typing

from trax_hourglass.data import archives
from trax_hourglass.data import cache
from trax_hourglass.data import folders
from trax_hourglass.data import sources
from trax_hourglass.runtime.errors import InputError

_NOT_SOURCES = ('test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__')
_HEAD = 8192  # Bytes that are inspected.
_UTF_16 = b'\xff\xfe', b'\xfe\xff'  # Byte order marks; UTF-16 texts contain zeros.


class TextFile(typing.NamedTuple):
  """Locates the bytes of one file of a corpus.

  Attributes:
    name: name relative to the folder or archive, with slashes.
    path: path of the file that holds the bytes.
    first: offset of the first byte in that file.
    size: number of bytes.
  """
  name: str
  path: pathlib.Path
  first: int
  size: int


def as_they_are(root, python_sources_only=False):
  """Returns a file, or the files below a folder, as stored, and a Counter of what is left out.

  Links to folders are not followed.

  Args:
    root: path of the file or folder.
    python_sources_only: leaves out tests, installed packages and what does not end in .py, without counting.
  """
  if root.is_file():
    return [_whole(root.name, root)], collections.Counter()
  names, left_out = folders.files_below(root, follow_folders=False)
  if python_sources_only:
    left_out.clear()
    names = [name for name in names if name.endswith('.py') and not set(name.split('/')) & set(_NOT_SOURCES)]
  return [_whole(name, root / name) for name in names], left_out


def unpacked(root):
  """Returns the files of a file, a folder or an archive, decompressed, and a Counter of what is left out."""
  if root.is_dir():
    names, left_out = folders.files_below(root)
    return [_whole(name, _content(root / name)) for name in names], left_out
  path = root if sources.is_archive(root) else _content(root)
  if sources.is_archive(path):  # A .tar.zst is one when it is decompressed.
    return _of_archive(path, root)
  return [_whole(root.name, path)], collections.Counter()


def leave_out_binaries(files):
  """Removes binary files from a list if they lie beside texts; returns a Counter of them.

  A file is binary if a byte of its first 8,192 is zero (Git's rule), unless it begins as UTF-16. All files stay if
  texts are the minority and less than a hundredth of the bytes, such as a README beside data.

  Args:
    files: [TextFile], modified in place.
  """
  binary = [file for file in files if _is_binary(file)]
  n_texts = len(files) - len(binary)
  n_bytes = sum(file.size for file in files)
  of_texts = n_bytes - sum(file.size for file in binary)
  if not n_texts or n_texts < len(binary) and of_texts * 100 < n_bytes:
    return collections.Counter()
  for file in binary:
    files.remove(file)
  examples = ', '.join(file.name for file in binary[:3])
  return collections.Counter({f'binary beside texts (such as {examples})': len(binary)} if binary else {})


def _whole(name, path):
  return TextFile(name, path, 0, path.stat().st_size)


def _content(file):
  """Returns the path of a file, or of its decompressed copy in the cache."""
  if archives.kind(file) not in archives.PACKED:
    return file
  path = cache.folder() / f'unpacked-{file.name}-{cache.fingerprint([file])}'
  return cache.build(path, lambda: archives.content(file), str(file))


def _of_archive(path, root):
  """Returns an archive's files, concatenated in one file of the cache, and a Counter of what is left out.

  Raises:
    InputError: the archive, which the user knows as `root`, is damaged, or most of its files are compressed.
  """
  source = sources.Archive(path)
  flat = cache.folder() / f'unpacked-{path.name}-{cache.fingerprint([path])}'
  cache.build(flat, source.chunks, str(path))
  files, first = [], 0
  for name, size in zip(source.names, source.sizes()):
    files.append(TextFile(name, flat, first, size))
    first += size
  packed = [file.name for file in files if archives.kind_of(_head(file, 8)) in archives.PACKED]
  if 2 * len(packed) > len(files):
    raise InputError(f'{str(root)!r} holds compressed files, such as {packed[0]!r}: unpack the archive and give its '
                     'folder')
  return files, source.left_out


def _is_binary(file):
  head = _head(file, _HEAD)
  return b'\0' in head and not head.startswith(_UTF_16)


def _head(file, n):
  """Returns the first bytes of a file, at most n."""
  with open(file.path, 'rb') as f:
    f.seek(file.first)
    return f.read(min(n, file.size))
