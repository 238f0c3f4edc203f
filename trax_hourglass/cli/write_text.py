"""What `generate` does: opens a run, samples from it, and shows text as it comes or images as a grid.

Letters: S side of an image in pixels, B batch.
"""

import codecs
import dataclasses
import io
import json
import math
import os
import pathlib
import sys
import time

from trax_hourglass.runtime import trax_compat  # pylint: disable=unused-import, g-bad-import-order

import numpy as np
from PIL import Image

from trax_hourglass.data import image_files
from trax_hourglass.inference import decoding
from trax_hourglass.runtime import gin_config
from trax_hourglass.runtime import seeds
from trax_hourglass.training import run_directory

_TEXT_LENGTH = 500
_PIECE = 32


@dataclasses.dataclass(frozen=True)
class Written:
  """Some written sequences, and how it went.

  Attributes:
    samples: the Samples, one for each sequence.
    seconds: from the first compiled pass on, compiling included.
    pieces: [(tokens, seconds)] of the pieces after the first two, which compile.
  """
  samples: list
  seconds: float
  pieces: list

  @property
  def bits_per_token(self):
    """Mean bits of what was written, under the model and not under the temperature."""
    log_probs = np.concatenate([sample.log_probs for sample in self.samples])
    return float(-log_probs.mean() / math.log(2))

  @property
  def tokens_per_second(self):
    """Of all sequences together, once all is compiled; None where too little was written to tell."""
    tokens, seconds = map(sum, zip(*self.pieces)) if self.pieces else (0, 0)
    return tokens / seconds if seconds else None

  def summary(self, unit):
    """Returns the two as a dictionary, units in the names."""
    return {f'{unit}s_written': sum(len(sample.tokens) for sample in self.samples),
            f'bits_per_{unit}': self.bits_per_token, 'tokens_per_second': self.tokens_per_second, 'seconds': self.seconds}


def write(pieces, show):
  """Hands each of a sampler's pieces to `show` as it comes, and returns what was Written."""
  started = time.perf_counter()
  all_pieces, timed, before = [], [], started
  for number, samples in enumerate(pieces):
    now = time.perf_counter()
    if number > 1:
      timed.append((sum(len(sample.tokens) for sample in samples), now - before))
    all_pieces.append(samples)
    show(samples)
    before = time.perf_counter()
  samples = [decoding.Sample(*(np.concatenate(parts) for parts in zip(*of_one))) for of_one in zip(*all_pieces)]
  return Written(samples, time.perf_counter() - started, timed)


def open_model(args):
  """Returns the model of the run that the arguments name, in mode 'predict'.

  Raises:
    ValueError: another seed; see also `run_directory.load` and `decoding.Choice`.
  """
  _choice(args)  # Before the slow part, as is what follows.
  seeds.check_seed(args.seed)
  if args.count < 1:
    raise ValueError(f'count is {args.count}: give the number of texts or images, at least 1')
  run = run_directory.load(args.output_dir, args.config_file, args.config, mode='predict', checkpoint=args.checkpoint)
  if getattr(run.model, 'max_length', None) is None:
    raise ValueError('only a Hourglass of ours can generate, and fit.model is another')
  return run.model


def _sampler(args, model):
  return decoding.Sampler(model, _choice(args), stop=args.stop, piece=_PIECE, dtype=args.dtype)


def _choice(args):
  return decoding.Choice(args.temperature, args.top_k, args.top_p)


def write_texts(args):
  """Writes texts to stdout as they come, or one JSON object; speed and bits go to stderr.

  Raises:
    ValueError: a model whose tokens are no bytes, an empty prompt file, a prompt longer than the model has room for, or
      another argument out of range.
  """
  prompt = _prompt(args)
  length = _TEXT_LENGTH if args.length is None else args.length
  model = open_model(args)
  if model.vocab_size > 256:
    raise ValueError(f'the model knows {model.vocab_size} tokens, pieces of a learnt vocabulary, and only bytes can be shown '
                     'as text: sample from it in Python by trax_hourglass.decoding, and decode by its vocabulary')
  if model.vocab_size < 256 and max(prompt, default=0) >= model.vocab_size:
    raise ValueError(f'the prompt holds byte {max(prompt)} and the model knows 0 .. {model.vocab_size - 1}')
  pieces = _sampler(args, model).stream([prompt] * args.count, length, args.seed)  # Raises what there is to raise.
  show = _Terminal(prompt, args.count, args.json)
  written = write(pieces, show)
  texts = [_bytes(sample).decode('utf-8', 'replace') for sample in written.samples]
  show.finish(texts)
  if args.json:
    print(json.dumps({'prompt': prompt.decode('utf-8', 'replace'), 'texts': texts, **written.summary('byte')}))
    return
  speed = 'too few to time' if written.tokens_per_second is None else f'{written.tokens_per_second:,.0f} bytes/s'
  print(f'{sum(len(sample.tokens) for sample in written.samples):,} bytes, {speed}, {written.bits_per_token:.3f} bits per '
        f'byte under the model, {written.seconds:.1f} s with compiling', file=sys.stderr)


def _prompt(args):
  """Returns the prompt's bytes."""
  if args.prompt_file is None:
    return (args.prompt or '').encode('utf-8', 'surrogateescape')  # How Python reads bytes of a shell that are no UTF-8.
  try:
    prompt = pathlib.Path(args.prompt_file).expanduser().read_bytes()
  except OSError as error:
    raise ValueError(f'prompt file {args.prompt_file!r} cannot be read: {error.strerror}') from None
  if not prompt:
    raise ValueError(f'prompt file {args.prompt_file!r} is empty: leave it out to begin with nothing')
  return prompt


def _bytes(sample):
  return sample.tokens.astype(np.uint8).tobytes()


class _Terminal:
  """Shows the first text as its pieces come, characters whole, and the others behind it when all are done."""

  def __init__(self, prompt, count, silent):
    self._silent = silent
    self._decoder = codecs.getincrementaldecoder('utf-8')('replace')
    self._prompt, self._count = prompt, count
    self._header(0)
    self._write(self._decoder.decode(prompt))

  def __call__(self, samples):
    self._write(self._decoder.decode(_bytes(samples[0])))

  def finish(self, texts):
    """Ends the first text and shows the others."""
    self._write(self._decoder.decode(b'', True) + '\n')
    for number, text in enumerate(texts[1:], 1):
      self._header(number)
      self._write(self._prompt.decode('utf-8', 'replace') + text + '\n')

  def _header(self, number):
    if self._count > 1:
      self._write(f'--- {number + 1} of {self._count}\n')

  def _write(self, text):
    if self._silent:
      return
    sys.stdout.write(_printable(text))
    sys.stdout.flush()


def _printable(text):
  """Returns a text in which what stdout cannot show, such as an ä on a terminal of ASCII, is replaced."""
  encoding = sys.stdout.encoding or 'utf-8'
  return text.encode(encoding, 'replace').decode(encoding)


def write_images(args):
  """Writes a grid of images; with an image to complete, rows of the original, its upper half, and the completions.

  Raises:
    ValueError: a model of text, an image of another size, or another argument out of range.
  """
  if args.prompt is not None or args.prompt_file is not None or args.length is not None or args.stop is not None:
    raise ValueError('images have no text to begin with, and one length: leave --prompt, --prompt_file, --length and --stop '
                     'out')
  _check_writable(args.image)
  given = None if args.complete is None else _read_image(args.complete)
  model = open_model(args)
  side = _side(model)
  prompt = np.zeros(0, np.int32)
  if given is not None:
    if given.shape[:2] != (side, side):
      raise ValueError(f'{args.complete!r} is {given.shape[1]} x {given.shape[0]} (width x height) and the model was '
                       f'trained on {side} x {side}: scale it')
    prompt = given[:side // 2].reshape(-1).astype(np.int32)
  n_tokens = 3 * side * side
  with_room = gin_config.setting('model')(mode='predict', max_length=n_tokens)  # Just for an image, whatever the config.
  with_room.weights = model.weights
  pieces = _sampler(args, with_room).stream([prompt] * args.count, n_tokens - len(prompt), args.seed)
  written = write(pieces, _progress(n_tokens - len(prompt)))
  images = [np.concatenate([prompt, sample.tokens]).astype(np.uint8).reshape(side, side, 3) for sample in written.samples]
  if given is not None:
    kept = np.zeros_like(given)
    kept[:side // 2] = given[:side // 2]
    images = [given, kept, *images]
  _grid(images, columns=len(images) if given is not None else math.ceil(math.sqrt(len(images)))).save(args.image)
  if args.json:
    print(json.dumps({'image': args.image, **written.summary('dim')}))
    return
  print(_printable(args.image))
  speed = 'too few to time' if written.tokens_per_second is None else f'{written.tokens_per_second:,.0f} dims/s'
  print(f'{args.count} images of {side} x {side}, {speed}, {written.bits_per_token:.3f} bits per dim under the model, '
        f'{written.seconds:.1f} s with compiling', file=sys.stderr)


def _side(model):
  """Returns S of the model's images, and raises ValueError for a model of text."""
  length = gin_config.setting('length')
  side = math.isqrt(length // 3)
  if 3 * side * side != length or model.vocab_size != 256:
    raise ValueError(f'the model writes sequences of {length} tokens of {model.vocab_size} kinds, not images (of 3 S^2 '
                     'tokens of 256 kinds): leave --image out for text')
  unit = gin_config.corpus_unit()  # The images themselves need not be here.
  if unit not in ('dim', None):
    raise ValueError(f'the model was trained on {unit}s, not images: leave --image out for text')
  return side


def _read_image(path):
  """Returns uint8 (height, width, 3)."""
  try:
    content = pathlib.Path(path).expanduser().read_bytes()
  except OSError as error:
    raise ValueError(f'image {path!r} cannot be read: {error.strerror}') from None
  try:
    image = image_files.read(content)
  except ValueError as error:
    raise ValueError(f'image {path!r} cannot be read: {error}') from None
  try:
    return np.asarray(image_files.to_rgb(image))
  except ValueError as error:
    raise ValueError(f'image {path!r} {error}') from None


def _check_writable(path):
  """Raises ValueError if an image cannot be written there, before minutes of work go into it."""
  folder = os.path.dirname(os.path.abspath(path))
  ending = os.path.splitext(path)[1].lower()
  if not os.path.isdir(folder):
    raise ValueError(f'{path!r} cannot be written: there is no folder {folder!r}')
  if os.path.isdir(path):
    raise ValueError(f'{path!r} is a folder: name a file in it, such as {os.path.join(path, "out.png")!r}')
  if ending not in Image.registered_extensions():
    raise ValueError(f'{path!r} ends with {ending!r}, which is no kind of image: end it with .png')
  try:
    Image.new('RGB', (1, 1)).save(io.BytesIO(), Image.registered_extensions()[ending])
  except Exception as error:  # Some kinds can only be read, or hold no colours.  pylint: disable=broad-except
    raise ValueError(f'{path!r} ends with {ending!r}, a kind of image that cannot be written here: end it with '
                     '.png') from error


def _grid(images, columns):
  """Returns images (S, S, 3) side by side, row by row, a pixel of white between them."""
  side = images[0].shape[0]
  rows = -(-len(images) // columns)
  grid = np.full((rows * (side + 1) - 1, columns * (side + 1) - 1, 3), 255, np.uint8)
  for number, image in enumerate(images):
    top, left = (side + 1) * np.array(divmod(number, columns))
    grid[top:top + side, left:left + side] = image
  return Image.fromarray(grid)


def _progress(n_tokens):
  """Returns what shows how far images are, on a terminal."""
  done = 0

  def show(samples):
    nonlocal done
    done += len(samples[0].tokens)
    if sys.stderr.isatty():
      print(f'\r{done:,} of {n_tokens:,} dims', end='' if done < n_tokens else '\n', file=sys.stderr, flush=True)
  return show
