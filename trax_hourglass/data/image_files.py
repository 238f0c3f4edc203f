"""Image files (PNG, JPEG ... whatever Pillow reads) of a folder, .zip or .tar, as RGB arrays of one size.

Letters: S side in pixels.
"""

import collections
import io
import os
import pathlib
import tarfile
import warnings
import zipfile

import numpy as np
from PIL import Image

from trax_hourglass.data import cache

_ENDINGS = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
_DEEP = ('I;16', 'I;16B', 'I;16L', 'I;16N')  # 16 bits of grey; Pillow's own conversion would cut them at 255.
_UNSCALED = ('I', 'F')  # Grey of 32 bits, whose range the file does not say.


class Folder:
  """The image files below a folder; hidden ones are left out.

  Attributes:
    path: the folder.
    names: of the files, relative to it, sorted.
    files: what `cache.fingerprint` is to look at.
  """

  def __init__(self, path):
    """Lists the files."""
    self.path = path
    found = (file.relative_to(path) for file in pathlib.Path(path).rglob('*'))
    self.names = sorted(name.as_posix() for name in found if _is_image(name) and (path / name).is_file())
    self.files = [path / name for name in self.names]

  def contents(self, names):
    """Yields (name, bytes of the file)."""
    for name in names:
      yield name, (self.path / name).read_bytes()


class Archive:
  """The image files of a .zip or .tar (which may be packed again, as .tar.gz), as `Folder` has them.

  Attributes: see `Folder`.
  """

  def __init__(self, path):
    """Lists the files.

    Raises:
      ValueError: it is no .zip or .tar, or damaged.
    """
    self.path, self.files = path, [path]
    try:
      if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
          names = [info.filename for info in archive.infolist() if not info.is_dir()]
      else:
        with tarfile.open(path) as archive:
          names = [info.name for info in archive if info.isfile()]
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
      raise ValueError(f'{str(path)!r} is no .zip or .tar, or damaged ({error}): fetch it again') from error
    self.names = sorted(name for name in names if _is_image(pathlib.PurePosixPath(name)))

  def contents(self, names):
    """Yields (name, bytes of the file); in the archive's own order, since a packed .tar can only be read in that."""
    wanted = set(names)
    try:
      if zipfile.is_zipfile(self.path):
        with zipfile.ZipFile(self.path) as archive:
          for name in archive.namelist():
            if name in wanted:
              yield name, archive.read(name)
      else:
        with tarfile.open(self.path) as archive:
          for info in archive:
            if info.isfile() and info.name in wanted:
              yield info.name, archive.extractfile(info).read()
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
      raise ValueError(f'{str(self.path)!r} is damaged ({error}): fetch it again') from error


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
    ValueError: an image that cannot be read, or is of another size.
  """
  modes, n_resized, skipped = collections.Counter(), 0, []
  for name, content in source.contents(names):
    where = os.path.join(source.path, name)
    try:
      image = _read(content)
    except Exception as error:  # Damaged images make Pillow raise anything at all.  pylint: disable=broad-except
      if corrupt == 'skip':
        skipped.append(name)
        continue
      raise ValueError(f'image {where!r} is corrupt ({error}): repair or remove it, or skip such images if that is '
                       'an option') from error
    if image.mode in _UNSCALED:
      raise ValueError(f'image {where!r} has pixels of 32 bits (mode {image.mode}), whose range is not known: convert it to '
                       '8 bits')
    modes[image.mode] += image.mode != 'RGB'
    image = _to_rgb(image)
    if image.size != (size, size):
      if other_sizes == 'error':
        raise ValueError(f'image {where!r} is {image.width} x {image.height} (width x height), where {size} x {size} is '
                         'wanted')
      image, n_resized = _to_size(image, size), n_resized + 1
    yield np.asarray(image)[None]
  if changed := {mode: n for mode, n in modes.items() if n}:
    cache.say(f'{source.path}: {sum(changed.values()):,} images converted to RGB ('
              f'{", ".join(f"{mode} {n:,}" for mode, n in sorted(changed.items()))}; transparency dropped)')
  if n_resized:
    cache.say(f'{source.path}: {n_resized:,} images of other sizes scaled and cut to {size} x {size}')
  if skipped:
    cache.say(f'{source.path}: {len(skipped):,} corrupt images skipped, such as {skipped[0]}')


def _read(content):
  with warnings.catch_warnings():
    warnings.simplefilter('error', Image.DecompressionBombWarning)
    image = Image.open(io.BytesIO(content))
    image.load()
  return image


def _to_rgb(image):
  if image.mode in _DEEP:
    image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
  return image.convert('RGB')


def _to_size(image, size):
  width, height = image.size
  scale = size / min(width, height)
  image = image.resize((max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.LANCZOS)
  left, top = (image.width - size) // 2, (image.height - size) // 2
  return image.crop((left, top, left + size, top + size))
