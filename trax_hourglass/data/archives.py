"""Reads files that are raw or compressed as .zip, .gz, .xz, .bz2 or .zst, as their first bytes show."""

import bz2
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib

import zstandard

from trax_hourglass.runtime.errors import InputError

_CHUNK = 1 << 20  # Bytes.
# Errors of Python's readers for archives and compressed files that are damaged, truncated or of an unknown format.
# RuntimeError is raised for an encrypted .zip. OSErrors may come from the file system; callers handle them separately.
DAMAGED = (EOFError, RuntimeError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error,
           zstandard.ZstdError)
_PACKED = {b'PK\x03\x04': 'zip', b'PK\x05\x06': 'zip', b'\x1f\x8b': 'gz', b'\xfd7zXZ\x00': 'xz', b'BZh': 'bz2',
           b'\x28\xb5\x2f\xfd': 'zst'}
_STREAMS = {'gz': gzip.open, 'xz': lzma.open, 'bz2': bz2.open}
PACKED = (*_STREAMS, 'zst')  # Formats of a single file.


def kind(path):
  """Returns 'zip', 'gz', 'xz', 'bz2', 'zst' or 'raw'.

  Raises:
    InputError: the path is a folder, or cannot be read.
  """
  if os.path.isdir(path):
    raise InputError(f'{str(path)!r} is a folder: give a file')
  try:
    with open(path, 'rb') as f:
      return kind_of(f.read(8))
  except OSError as error:
    raise InputError(f'{str(path)!r} cannot be read ({error.strerror}): give a file') from error


def kind_of(first):
  """Returns the kind of a file, see `kind`, by its first 8 bytes."""
  return next((name for magic, name in _PACKED.items() if first.startswith(magic)), 'raw')


def content(path, member=None):
  """Yields the decompressed content of a file in chunks of bytes.

  Args:
    path: the file.
    member: name of the wanted file in a .zip of several files.

  Raises:
    InputError: the file cannot be read, is damaged or truncated, or is a .zip of several files without `member`.
  """
  try:
    if kind(path) == 'zst':
      yield from _content_of_zst(path)
      return
    with _open(path, member) as f:
      while chunk := f.read(_CHUNK):
        yield chunk
  except (gzip.BadGzipFile, *DAMAGED) as error:
    raise InputError(f'{str(path)!r} is damaged or cut off ({error}): fetch it again') from error
  except OSError as error:
    raise InputError(f'{str(path)!r} cannot be read ({error.strerror or error})') from error


def _content_of_zst(path):
  """Yields the content of a .zst of any number of frames; raises EOFError for a truncated frame."""
  frame = None
  with open(path, 'rb') as f:
    while packed := f.read(_CHUNK):
      while packed:
        frame = frame or zstandard.ZstdDecompressor().decompressobj()
        yield frame.decompress(packed)
        packed, frame = (frame.unused_data, None) if frame.eof else (b'', frame)
  if frame is not None:
    raise EOFError('it ends within a frame')


def _open(path, member):
  packing = kind(path)
  if packing == 'zip':
    archive = zipfile.ZipFile(path)
    return archive.open(_choose(path, archive, member))
  return _STREAMS.get(packing, open)(path, 'rb')


def _choose(path, archive, member):
  files = [info for info in archive.infolist() if not info.is_dir()]
  named = [info for info in files if os.path.basename(info.filename) == member]
  chosen = files if len(files) == 1 else named
  if len(chosen) != 1:
    listed = ', '.join(info.filename for info in files[:5]) or 'none'
    raise InputError(f'{str(path)!r} has {len(files)} files ({listed}), where one is wanted, or one named {member!r}')
  if chosen[0].flag_bits & 1:
    raise InputError(f'{str(path)!r} is encrypted: unpack it first')
  return chosen[0]
