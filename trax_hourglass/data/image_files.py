"""Reads images (PNG, JPEG and other formats of Pillow) as RGB arrays of one size.

Letters: S side in pixels.
"""

import collections
import functools
import io
import os
import pathlib
import warnings

import numpy as np
from PIL import Image
from PIL import ImageOps

from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import progress

# Pillow only recognises these; decoding them takes another program or a plug-in.
_NO_PIXELS = ('BUFR', 'EPS', 'GRIB', 'HDF5', 'MPEG', 'WMF')
_DEEP = ('I;16', 'I;16B', 'I;16L', 'I;16N')  # 16-bit greyscale; Pillow's own conversion would clip at 255.
_UNSCALED = ('I', 'F')  # 32-bit greyscale of unknown range.


def is_image(name):
  """Returns whether a file name has the extension of a format that Pillow decodes without another program."""
  return pathlib.PurePosixPath(name).suffix.lower() in _endings()


@functools.cache
def _endings():
  Image.init()
  return {ending for ending, kind in Image.registered_extensions().items()
          if kind in (*Image.OPEN, 'MPO') and kind not in _NO_PIXELS}  # Pillow opens an MPO as a JPEG.


def arrays(source, names, size, other_sizes='error', corrupt='error', turned=True):
  """Yields each image as uint8 (1, S, S, 3), and reports all conversions once at the end.

  Args:
    source: a `Folder` or `Archive` of sources.py.
    names: names of the wanted files.
    size: S.
    other_sizes: 'error', or 'resize': the shorter side is scaled to S (Lanczos), the longer one center-cropped.
    corrupt: 'error', or 'skip'.
    turned: whether to apply the files' EXIF orientation.

  Raises:
    InputError: an image that cannot be read, or is of another size.
  """
  modes, n_resized, skipped = collections.Counter(), 0, []
  for name, content in source.contents(names):
    where = os.path.join(source.path, name)
    try:
      image = read(content, turned)
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
  """Signals that an intact image has more pixels than Pillow decodes."""


def read(content, turned=True):
  """Returns the Pillow image of a file's bytes in its stored mode, turned by its EXIF orientation as in viewers.

  Args:
    content: the file's bytes.
    turned: False ignores the EXIF orientation.

  Raises:
    TooLarge: the image has too many pixels.
    InputError: the file is not an image, or is damaged.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      image = Image.open(io.BytesIO(content))
      image.load()
      if turned:
        ImageOps.exif_transpose(image, in_place=True)
  except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
    raise TooLarge(f'too large: it has more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down') from error
  except Image.UnidentifiedImageError as error:
    raise InputError('its image format is not known') from error
  except Exception as error:  # Damaged images make Pillow raise arbitrary errors.  pylint: disable=broad-except
    raise InputError(str(error) or type(error).__name__) from error
  return image


def to_rgb(image):
  """Converts a Pillow image to RGB, without transparency.

  Raises:
    InputError: the pixels have 32 bits.
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
