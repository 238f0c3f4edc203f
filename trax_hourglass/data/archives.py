"""The content of a file that is raw or packed as .zip, .gz, .xz or .bz2, recognised by its first bytes."""

import bz2
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib

from trax_hourglass.runtime.errors import InputError

_CHUNK = 1 << 20  # Bytes.
# What Python's readers of archives and packed files raise where these are damaged, cut off or of a kind they do not
# know; RuntimeError is the one of an encrypted .zip. OSErrors may be of the file system and are told apart by the
# caller.
DAMAGED = (EOFError, RuntimeError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error)
_PACKED = {b'PK\x03\x04': 'zip', b'PK\x05\x06': 'zip', b'\x1f\x8b': 'gz', b'\xfd7zXZ\x00': 'xz', b'BZh': 'bz2'}
STREAMS = {'gz': gzip.open, 'xz': lzma.open, 'bz2': bz2.open}


def kind(path):
  """Returns 'zip', 'gz', 'xz', 'bz2' or 'raw'.

  Raises:
    InputError: it is no file, or cannot be read.
  """
  if os.path.isdir(path):
    raise InputError(f'{str(path)!r} is a folder: give a file')
  try:
    with open(path, 'rb') as f:
      first = f.read(8)
  except OSError as error:
    raise InputError(f'{str(path)!r} cannot be read ({error.strerror}): give a file') from error
  return next((name for magic, name in _PACKED.items() if first.startswith(magic)), 'raw')


def content(path, member):
  """Yields the content in chunks of bytes.

  Args:
    path: the file.
    member: name of the file wanted of a .zip that holds several.

  Raises:
    InputError: the file is damaged or cut off, or a .zip does not say which of its files is meant.
  """
  try:
    with _open(path, member) as f:
      while chunk := f.read(_CHUNK):
        yield chunk
  except (gzip.BadGzipFile, *DAMAGED) as error:
    raise InputError(f'{str(path)!r} is damaged or cut off ({error}): fetch it again') from error
  except OSError as error:
    raise InputError(f'{str(path)!r} cannot be read ({error.strerror or error})') from error


def _open(path, member):
  packing = kind(path)
  if packing == 'zip':
    archive = zipfile.ZipFile(path)
    return archive.open(_choose(path, archive, member))
  return STREAMS.get(packing, open)(path, 'rb')


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
