"""Serves writing texts and writing images: the opened model, its sampler, speed and bits."""

import dataclasses
import math
import sys
import time

import numpy as np

from trax_hourglass.cli import model_flags
from trax_hourglass.cli import sampling_flags
from trax_hourglass.inference import decoding
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime.progress import say

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
    return {
        f'{unit}s_written': sum(len(sample.tokens) for sample in self.samples), f'bits_per_{unit}': self.bits_per_token,
        'tokens_per_second': self.tokens_per_second, 'seconds': self.seconds
    }


def write(pieces, show):
  """Hands each of a sampler's pieces to `show` as it comes, and returns what was Written."""
  if sys.stderr.isatty():
    say('compiling ...')
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


def open_run(args):
  """Returns the run that the arguments name, its model in mode 'predict'.

  Raises:
    InputError: the model cannot generate; see also `model_flags.open_run`.
  """
  run = model_flags.open_run(args, 'predict')
  if getattr(run.model, 'max_length', None) is None:
    raise InputError('only a Hourglass of ours can generate, and fit.model is another')
  return run


def make_sampler(args, model):
  """Returns the Sampler that the arguments ask for."""
  stop = None if args.stop is None else sampling_flags.stop_byte(args.stop)
  choice = decoding.Choice(args.temperature, args.top_k, args.top_p)
  return decoding.Sampler(model, choice, stop=stop, piece=_PIECE, dtype=args.dtype)


def printable(text):
  """Returns a text in which what stdout cannot show, such as an ä on a terminal of ASCII, is replaced."""
  encoding = sys.stdout.encoding or 'utf-8'
  return text.encode(encoding, 'replace').decode(encoding)
