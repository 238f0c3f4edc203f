"""Reads files by name from folders and archives.

A name is relative to the folder or archive, with slashes.
"""

import collections
import contextlib
import io
import pathlib
import posixpath
import shutil
import stat
import tarfile
import tempfile
import zipfile

from trax_hourglass.data import archive_links
from trax_hourglass.data import archives
from trax_hourglass.data import folders
from trax_hourglass.runtime.errors import InputError


_CHUNK = 1 << 20  # Bytes.
_LONGEST_LINK = 4096  # Characters; Linux has no longer paths.


def is_archive(path):
  """Returns whether a file is a .zip, even a damaged one, or a .tar, possibly compressed, as .tar.gz."""
  if archives.kind(path) == 'zip':
    return True
  try:
    with tarfile.open(path) as archive:
      return archive.next() is not None  # A file of zeros is an empty .tar.
  except (OSError, *archives.DAMAGED):
    return False


class Folder:
  """Holds the wanted files below a folder, see folders.py.

  Attributes:
    path: the folder.
    names: sorted names of the files.
    files: paths for `cache.fingerprint`.
    left_out: Counter {kind of what was left out: number}.
  """

  def __init__(self, path, wanted=None, kind='files', follow_folders=True):
    """Lists the files.

    Args:
      path: the folder.
      wanted: function of a name that returns whether the file is wanted; None for all.
      kind: noun for wanted files, for messages, such as 'pictures'.
      follow_folders: see `folders.files_below`.
    """
    self.path = path
    names, self.left_out = folders.files_below(path, follow_folders)
    self.names = _chosen(names, wanted, kind, self.left_out)
    self.files = [path / name for name in self.names]

  def contents(self, names):
    """Yields (name, bytes of the file)."""
    for name in names:
      yield name, (self.path / name).read_bytes()


class Archive:
  """Holds the wanted files of a .zip or .tar (possibly compressed, as .tar.gz), with the interface of `Folder`.

  Of several files with one name, the last one counts, as in unpacking. Links within the archive are followed, see
  archive_links.py.

  Attributes: see `Folder`.
  """

  def __init__(self, path, wanted=None, kind='files'):
    """Lists the files.

    Args:
      path: the archive.
      wanted: see `Folder`.
      kind: see `Folder`.

    Raises:
      InputError: the file is not a .zip or .tar, or is damaged, truncated or encrypted.
    """
    self.path, self.files = path, [path]
    try:
      if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
          files, links, encrypted = _files_of_zip(archive)
      else:
        with tarfile.open(path, tarinfo=_Header) as archive:
          members, links = _members_of_tar(archive)
          files, encrypted = {name: (name, info.size) for name, info in members.items()}, False
    except (OSError, *archives.DAMAGED) as error:
      raise InputError(f'{str(path)!r} is not a .zip or .tar, or damaged ({error}): fetch it again') from error
    if encrypted:
      raise InputError(f'{str(path)!r} is encrypted: unpack it first')
    self._stored, n_lost = archive_links.followed(files, links)
    shown = [name for name in self._stored if not any(map(_is_hidden, pathlib.PurePosixPath(name).parts))]
    self.left_out = collections.Counter({'hidden': len(self._stored) - len(shown),
                                         'links to nothing in the archive': n_lost})
    self.names = _chosen(sorted(shown), wanted, kind, self.left_out)

  def contents(self, names):
    """Yields (name, bytes of the file) in the order of the names.

    Raises:
      InputError: the archive is damaged, or no longer holds one of the names.
    """
    with self._clear_errors(), self._reader(names) as open_file:
      for name in names:
        with open_file(name) as f:
          content = f.read()
        yield name, content

  def chunks(self):
    """Yields the concatenated contents of all files in chunks of at most a megabyte.

    Raises:
      InputError: as `contents`.
    """
    with self._clear_errors(), self._reader(self.names) as open_file:
      for name in self.names:
        with open_file(name) as f:
          while chunk := f.read(_CHUNK):
            yield chunk

  def sizes(self):
    """Returns the size of each file in bytes, in the order of the names."""
    return [self._stored[name][1] for name in self.names]

  @contextlib.contextmanager
  def _clear_errors(self):
    try:
      yield
    except KeyError as error:
      raise InputError(f'{str(self.path)!r} has changed and no longer holds {error.args[0]!r}: start again') from error
    except (OSError, *archives.DAMAGED) as error:
      raise InputError(f'{str(self.path)!r} is damaged ({error}): fetch it again') from error

  @contextlib.contextmanager
  def _reader(self, names):
    """Opens the archive and yields a function that opens a file by name, to be called in the order of `names`."""
    with contextlib.ExitStack() as stack:
      if zipfile.is_zipfile(self.path):
        archive = stack.enter_context(zipfile.ZipFile(self.path))
        yield lambda name: archive.open(self._stored[name][0])
        return
      archive = stack.enter_context(tarfile.open(self.path, tarinfo=_Header))
      by_name, _ = _members_of_tar(archive)
      members = {name: by_name[self._stored[name][0]] for name in names
                 if name in self._stored and self._stored[name][0] in by_name}
      places = [member.offset_data for member in members.values()]
      if not isinstance(archive.fileobj, io.BufferedReader) and places != sorted(places):
        # Each backward seek in a compressed file would decompress it from its beginning.
        archive = tarfile.TarFile(fileobj=stack.enter_context(_unpacked(archive.fileobj, self.path)))
      yield lambda name: archive.extractfile(members[name])


class _Header(tarfile.TarInfo):
  """Reads a member's header; raises if it is damaged, truncated or missing, where tarfile assumes the archive's end."""

  @classmethod
  def frombuf(cls, buf, encoding, errors):
    try:
      return super().frombuf(buf, encoding, errors)
    except tarfile.EOFHeaderError:  # A block of zeros, the end.
      raise
    except tarfile.HeaderError as error:
      raise tarfile.ReadError(f'a header of its files is damaged, or its end is missing: {error}') from error


def _is_hidden(part):
  return part.startswith('.') and part != '..'


def _files_of_zip(archive):
  """Returns {name: (name in the archive, bytes)}, {name: link target}, and whether any file is encrypted."""
  files, links, encrypted = {}, {}, False
  for info in archive.infolist():
    name = info.filename.replace('\\', '/')  # Some programs for Windows write backslashes.
    encrypted |= bool(info.flag_bits & 1)
    if stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= _LONGEST_LINK and not encrypted:
      links[name] = archive.read(info).decode(errors='replace')
    elif not info.is_dir():
      files[name] = info.filename, info.file_size
  return files, links, encrypted


def _members_of_tar(archive):
  """Returns {name: header} and {name: link target} of an open .tar.

  Raises:
    tarfile.ReadError: the .tar does not end with zeros only.
  """
  members, links = {}, {}
  for info in archive:
    if info.isfile():
      members[info.name] = info
    elif info.issym():
      links[info.name] = info.linkname
    elif info.islnk():  # A hard link to an earlier file.
      links[info.name] = posixpath.relpath(info.linkname, posixpath.dirname(info.name) or '.')
  while block := archive.fileobj.read(1 << 20):
    if block.count(0) < len(block):
      raise tarfile.ReadError('something follows its end, or the header of a file was overwritten by zeros')
  return members, links


def _unpacked(packed, path):
  """Returns a temporary file with the content of an open compressed one, which was read without errors before."""
  packed.seek(0)
  unpacked = tempfile.TemporaryFile()
  try:
    shutil.copyfileobj(packed, unpacked)
    unpacked.seek(0)
  except OSError as error:
    unpacked.close()
    raise InputError(f'{str(path)!r} cannot be unpacked into {tempfile.gettempdir()!r} ({error.strerror or error}): '
                     'free space there, choose another folder by the variable TMPDIR, or unpack it yourself') from error
  return unpacked


def _chosen(names, wanted, kind, left_out):
  """Returns the wanted names, and counts the others by extension in `left_out`."""
  chosen = [name for name in names if wanted is None or wanted(name)]
  for name in set(names) - set(chosen):
    left_out[f'that are no {kind} ({pathlib.PurePosixPath(name).suffix.lower() or "no ending"})'] += 1
  return chosen
