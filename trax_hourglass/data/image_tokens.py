"""Stores images as sequences of tokens.

An image of side S has 3 S^2 tokens, row by row, with each pixel's R, G and B in turn.

Letters: N images, S side in pixels.
"""

import os

import numpy as np

from trax_hourglass.data import cache
from trax_hourglass.data.corpus import Tokens
from trax_hourglass.runtime.errors import InputError


def flat_file(path, arrays, size, what):
  """Returns all of some images as `Tokens`, from a file that is written once.

  Args:
    path: pathlib.Path of the file, in the cache.
    arrays: function of no argument that yields uint8 (N, S, S, 3).
    size: S.
    what: name of the images, for messages.

  Raises:
    InputError: there are no images, an image has another size, `arrays` raises, or the file cannot be written.
  """
  def chunks():
    n = 0
    for array in arrays():
      if array.shape[1:] != (size, size, 3) or array.dtype != np.uint8:
        raise InputError(f'{what}: images of {array.dtype} {" x ".join(map(str, array.shape[1:]))}, where uint8 '
                         f'{size} x {size} x 3 are wanted (height x width x colours)')
      n += len(array)
      yield np.ascontiguousarray(array)
    if not n:
      raise InputError(f'{what}: there are no images')

  cache.build(path, chunks, what)
  return part(path, size)


def part(path, size, first=0, n=None):
  """Returns n images of a flat file from number `first` on as `Tokens`, or all that follow if n is None."""
  length = 3 * size * size
  n = os.path.getsize(path) // length - first if n is None else n
  return Tokens([(path, first * length, n * length)], example_length=length)


def from_planes(rows, size):
  """Turns images stored as planes, (N, 3 S^2) with all R, then all G, then all B, into (N, S, S, 3)."""
  return rows.reshape(-1, 3, size, size).transpose(0, 2, 3, 1)


def averaged(images, size):
  """Downsamples (N, S, S, 3) to uint8 (N, size, size, 3), each pixel the rounded mean of a square of pixels.

  Images of side `size`, or of a side that is no multiple of `size`, are returned unchanged.
  """
  factor, rest = divmod(images.shape[1], size)
  if factor == 1 or rest:
    return images
  squares = images.reshape(-1, size, factor, size, factor, 3)
  return np.floor(squares.mean(axis=(2, 4), dtype=np.float32) + 0.5).astype(np.uint8)
