"""Image files (PNG, JPEG ... whatever Pillow reads) of a folder, .zip or .tar, as RGB arrays of one size.

Letters: S side in pixels.
"""

import collections
import contextlib
import io
import os
import pathlib
import shutil
import tarfile
import tempfile
import warnings
import zipfile

import numpy as np
from PIL import Image
from PIL import ImageOps

from trax_hourglass.data import archives
from trax_hourglass.data import folders
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import progress

_ENDINGS = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
_DEEP = ('I;16', 'I;16B', 'I;16L', 'I;16N')  # 16 bits of grey; Pillow's own conversion would cut them at 255.
_UNSCALED = ('I', 'F')  # Grey of 32 bits, whose range the file does not say.


class Folder:
  """The image files below a folder, see folders.py.

  Attributes:
    path: the folder.
    names: of the files, relative to it, sorted.
    files: what `cache.fingerprint` is to look at.
  """

  def __init__(self, path):
    """Lists the files."""
    self.path = path
    self.names = [name for name in folders.files_below(path) if _is_image(pathlib.PurePosixPath(name))]
    self.files = [path / name for name in self.names]

  def contents(self, names):
    """Yields (name, bytes of the file)."""
    for name in names:
      yield name, (self.path / name).read_bytes()


class Archive:
  """The image files of a .zip or .tar (which may be packed again, as .tar.gz), as `Folder` has them.

  Of files of one name in an archive the last one counts, as when it is unpacked.

  Attributes: see `Folder`.
  """

  def __init__(self, path):
    """Lists the files.

    Raises:
      InputError: it is no .zip or .tar, damaged, cut off or encrypted.
    """
    self.path, self.files = path, [path]
    try:
      if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
          files = [info for info in archive.infolist() if not info.is_dir()]
        # Some programs for Windows write backslashes.
        self._stored = {info.filename.replace('\\', '/'): info.filename for info in files}
        names = set(self._stored)
        encrypted = any(info.flag_bits & 1 for info in files)
      else:
        with tarfile.open(path, tarinfo=_Header) as archive:
          names, encrypted = _files_of_tar(archive), False
    except (OSError, *archives.DAMAGED) as error:
      raise InputError(f'{str(path)!r} is no .zip or .tar, or damaged ({error}): fetch it again') from error
    if encrypted:
      raise InputError(f'{str(path)!r} is encrypted: unpack it first')
    self.names = sorted(name for name in names if _is_image(pathlib.PurePosixPath(name)))

  def contents(self, names):
    """Yields (name, bytes of the file) in the order of the names.

    Raises:
      InputError: the archive is damaged, or no longer holds one of them.
    """
    try:
      with self._reader(names) as read:
        for name in names:
          yield name, read(name)
    except KeyError as error:
      raise InputError(f'{str(self.path)!r} has changed and no longer holds {name!r}: start again') from error
    except (OSError, *archives.DAMAGED) as error:
      raise InputError(f'{str(self.path)!r} is damaged ({error}): fetch it again') from error

  @contextlib.contextmanager
  def _reader(self, names):
    """Opens the archive for a function of a name that returns the file's bytes, to be called in the order of
    `names`.
    """
    with contextlib.ExitStack() as stack:
      if zipfile.is_zipfile(self.path):
        archive = stack.enter_context(zipfile.ZipFile(self.path))
        yield lambda name: archive.read(self._stored[name])
        return
      archive = stack.enter_context(tarfile.open(self.path, tarinfo=_Header))
      members = _files_of_tar(archive)
      places = [members[name].offset_data for name in names if name in members]
      if not isinstance(archive.fileobj, io.BufferedReader) and places != sorted(places):
        # Each step back in a packed file would unpack it from its beginning.
        archive = tarfile.TarFile(fileobj=stack.enter_context(_unpacked(archive.fileobj, self.path)))
      yield lambda name: archive.extractfile(members[name]).read()


class _Header(tarfile.TarInfo):
  """A member's header; a damaged, cut off or missing one is an error, which tarfile takes for the archive's end."""

  @classmethod
  def frombuf(cls, buf, encoding, errors):
    try:
      return super().frombuf(buf, encoding, errors)
    except tarfile.EOFHeaderError:  # A block of zeros, the end.
      raise
    except tarfile.HeaderError as error:
      raise tarfile.ReadError(f'a header of its files is damaged, or its end is missing: {error}') from error


def _files_of_tar(archive):
  """Returns {name: header} of an open .tar.

  Raises:
    tarfile.ReadError: it does not end with zeros only.
  """
  members = {info.name: info for info in archive if info.isfile()}
  while block := archive.fileobj.read(1 << 20):
    if block.count(0) < len(block):
      raise tarfile.ReadError('something follows its end, or the header of a file was overwritten by zeros')
  return members


def _unpacked(packed, path):
  """Returns a temporary file with the content of an open packed one, all of which could be read before."""
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


def _is_image(name):
  return name.suffix.lower() in _ENDINGS and not any(part.startswith('.') for part in name.parts)


def arrays(source, names, size, other_sizes='error', corrupt='error'):
  """Yields uint8 (1, S, S, 3) of each image, and says once at the end what had to be changed.

  Args:
    source: a `Folder` or `Archive`.
    names: of the files wanted.
    size: S.
    other_sizes: 'error', or 'resize': the shorter side is scaled to S (Lanczos), the longer one cut on both ends alike.
    corrupt: 'error', or 'skip'.

  Raises:
    InputError: an image that cannot be read, or is of another size.
  """
  modes, n_resized, skipped = collections.Counter(), 0, []
  for name, content in source.contents(names):
    where = os.path.join(source.path, name)
    try:
      image = read(content)
    except TooLarge as error:
      raise InputError(f'image {where!r} is {error}') from error
    except InputError as error:
      if corrupt == 'skip':
        skipped.append(name)
        continue
      raise InputError(f'image {where!r} is corrupt ({error}): repair or remove it, or skip such images if that is '
                       'an option') from error
    modes[image.mode] += image.mode != 'RGB'
    try:
      image = to_rgb(image)
    except InputError as error:
      raise InputError(f'image {where!r} {error}') from error
    if image.size != (size, size):
      if other_sizes == 'error':
        raise InputError(f'image {where!r} is {image.width} x {image.height} (width x height), where {size} x {size} '
                         'is wanted')
      image, n_resized = _to_size(image, size), n_resized + 1
    yield np.asarray(image)[None]
  if changed := {mode: n for mode, n in modes.items() if n}:
    progress.say(f'{source.path}: {sum(changed.values()):,} images converted to RGB ('
                 f'{", ".join(f"{mode} {n:,}" for mode, n in sorted(changed.items()))}; transparency dropped)')
  if n_resized:
    progress.say(f'{source.path}: {n_resized:,} images of other sizes scaled and cut to {size} x {size}')
  if skipped:
    progress.say(f'{source.path}: {len(skipped):,} corrupt images skipped, such as {skipped[0]}')


class TooLarge(InputError):
  """Says of a sound image that it has more pixels than Pillow unpacks."""


def read(content):
  """Returns the Pillow image of a file's bytes, in the mode it has, as viewers show it: turned as its EXIF says.

  Raises:
    TooLarge: it has too many pixels.
    InputError: it is no image, or damaged.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      image = Image.open(io.BytesIO(content))
      image.load()
      ImageOps.exif_transpose(image, in_place=True)
  except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
    raise TooLarge(f'too large: it has more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down') from error
  except Image.UnidentifiedImageError as error:
    raise InputError('it begins like no known kind of image') from error
  except Exception as error:  # Damaged images make Pillow raise anything at all.  pylint: disable=broad-except
    raise InputError(str(error) or type(error).__name__) from error
  return image


def to_rgb(image):
  """Returns a Pillow image in RGB, transparency dropped.

  Raises:
    InputError: its pixels have 32 bits.
  """
  if image.mode in _UNSCALED:
    raise InputError(f'has pixels of 32 bits (mode {image.mode}), whose range is not known: convert it to 8 bits')
  if image.mode in _DEEP:
    image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
  return image.convert('RGB')


def _to_size(image, size):
  width, height = image.size
  scale = size / min(width, height)
  image = image.resize((max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.LANCZOS)
  left, top = (image.width - size) // 2, (image.height - size) // 2
  return image.crop((left, top, left + size, top + size))
