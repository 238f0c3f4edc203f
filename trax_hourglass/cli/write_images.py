"""Generates images with a trained model and writes them as a grid to a file.

Letters: S side of an image in pixels.
"""

import io
import json
import math
import os
import pathlib
import sys

import numpy as np
from PIL import Image

from trax_hourglass.cli import sampling
from trax_hourglass.data import image_files
from trax_hourglass.runtime.errors import InputError


def write_images(args):
  """Writes a grid of images, or with --complete one row: the original, its upper half, and the completions.

  Raises:
    InputError: a model of text, an image of another size, or another argument out of range.
  """
  if args.prompt is not None or args.prompt_file is not None or args.length is not None or args.stop is not None:
    raise InputError('images have no text to begin with, and one length: leave --prompt, --prompt_file, --length and '
                     '--stop out')
  _check_writable(args.image)
  given = None if args.complete is None else _read_image(args.complete)
  run = sampling.open_run(args)
  side = _side(run)
  prompt = np.zeros(0, np.int32)
  if given is not None:
    if given.shape[:2] != (side, side):
      raise InputError(f'{args.complete!r} is {given.shape[1]} x {given.shape[0]} (width x height) and the model was '
                       f'trained on {side} x {side}: scale it')
    prompt = given[:side // 2].reshape(-1).astype(np.int32)
  n_tokens = 3 * side * side
  # Capacity for exactly one image, whatever the config.
  with_room = run.settings.model(mode='predict', max_length=n_tokens)
  with_room.weights = run.model.weights
  pieces = sampling.make_sampler(args, with_room).stream([prompt] * args.count, n_tokens - len(prompt), args.seed)
  written = sampling.write(pieces, _progress(n_tokens - len(prompt)))
  images = [
      np.concatenate([prompt, sample.tokens]).astype(np.uint8).reshape(side, side, 3) for sample in written.samples
  ]
  if given is not None:
    kept = np.zeros_like(given)
    kept[:side // 2] = given[:side // 2]
    images = [given, kept, *images]
  _grid(images, columns=len(images) if given is not None else math.ceil(math.sqrt(len(images)))).save(
      os.path.expanduser(args.image))
  if args.json:
    print(json.dumps({'image': args.image, **written.summary('dim')}))
    return
  print(sampling.printable(args.image))
  speed = written.tokens_per_second
  speed = 'too few tokens to measure speed' if speed is None else f'{speed:,.0f} dims/s'
  print(f'{args.count} images of {side} x {side}, {speed}, {written.bits_per_token:.3f} bits per dim under the model, '
        f'{written.seconds:.1f} s including compilation', file=sys.stderr)


def _side(run):
  """Returns S of a run's images; raises InputError for a model of text."""
  length, vocab_size = run.settings.length, run.model.vocab_size
  side = math.isqrt(length // 3)
  if 3 * side * side != length or vocab_size != 256:
    raise InputError(f'the model writes sequences of {length} tokens of {vocab_size} kinds, not images (of 3 S^2 '
                     'tokens of 256 kinds): omit --image to write text')
  unit = run.settings.unit  # Known without reading the images.
  if unit not in ('dim', None):
    raise InputError(f'the model was trained on {unit}s, not images: omit --image to write text')
  return side


def _read_image(path):
  """Returns uint8 (height, width, 3)."""
  try:
    content = pathlib.Path(path).expanduser().read_bytes()
  except OSError as error:
    raise InputError(f'complete {path!r} cannot be read: {error.strerror}') from None
  try:
    image = image_files.read(content)
  except InputError as error:
    raise InputError(f'complete {path!r} cannot be read: {error}') from None
  try:
    return np.asarray(image_files.to_rgb(image))
  except InputError as error:
    raise InputError(f'complete {path!r} {error}') from None


def _check_writable(path):
  """Raises InputError if an image cannot be written to a path, before minutes of generation."""
  folder = os.path.dirname(os.path.abspath(path))
  ending = os.path.splitext(path)[1].lower()
  if not os.path.isdir(folder):
    raise InputError(f'image {path!r} cannot be written: there is no folder {folder!r}')
  if os.path.isdir(path):
    raise InputError(f'image {path!r} is a folder: name a file in it, such as {os.path.join(path, "out.png")!r}')
  if ending not in Image.registered_extensions():
    raise InputError(f'image {path!r} ends with {ending!r}, which is not an image format: end it with .png')
  try:
    Image.new('RGB', (1, 1)).save(io.BytesIO(), Image.registered_extensions()[ending])
  except Exception as error:  # Some formats are read-only or have no colours.  pylint: disable=broad-except
    raise InputError(f'image {path!r} ends with {ending!r}, an image format that cannot be written here: end it with '
                     '.png') from error


def _grid(images, columns):
  """Returns images (S, S, 3) as a grid, row by row, with one white pixel between them."""
  side = images[0].shape[0]
  rows = -(-len(images) // columns)
  grid = np.full((rows * (side + 1) - 1, columns * (side + 1) - 1, 3), 255, np.uint8)
  for number, image in enumerate(images):
    top, left = (side + 1) * np.array(divmod(number, columns))
    grid[top:top + side, left:left + side] = image
  return Image.fromarray(grid)


def _progress(n_tokens):
  """Returns a callback that shows the progress on a terminal."""
  done = 0

  def show(samples):
    nonlocal done
    done += len(samples[0].tokens)
    if sys.stderr.isatty():
      print(f'\r{done:,} of {n_tokens:,} dims', end='' if done < n_tokens else '\n', file=sys.stderr, flush=True)
  return show
