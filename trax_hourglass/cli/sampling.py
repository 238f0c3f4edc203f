"""Holds what text and image generation share: the opened model, its sampler, throughput and bits."""

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
  """Holds generated sequences and their timing.

  Attributes:
    samples: the Samples, one per sequence.
    seconds: wall time of the generation, including compilation.
    pieces: [(tokens, seconds)] of the pieces after the first two, which include compilation.
  """
  samples: list
  seconds: float
  pieces: list

  @property
  def bits_per_token(self):
    """Returns the mean bits of the generated tokens, under the model without the sampling temperature."""
    log_probs = np.concatenate([sample.log_probs for sample in self.samples])
    return float(-log_probs.mean() / math.log(2))

  @property
  def tokens_per_second(self):
    """Returns the throughput of all sequences together after compilation, or None if too few pieces were timed."""
    tokens, seconds = map(sum, zip(*self.pieces)) if self.pieces else (0, 0)
    return tokens / seconds if seconds else None

  def summary(self, unit):
    """Returns counts, bits, throughput and seconds as a dictionary with the units in its keys."""
    return {
        f'{unit}s_written': sum(len(sample.tokens) for sample in self.samples), f'bits_per_{unit}': self.bits_per_token,
        'tokens_per_second': self.tokens_per_second, 'seconds': self.seconds
    }


def write(pieces, show):
  """Passes each of a sampler's pieces to `show` on arrival and returns the result as a `Written`."""
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
  """Returns the run that the arguments select, with its model in mode 'predict'.

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
  """Returns a text with characters replaced that stdout cannot encode, such as an ä on an ASCII terminal."""
  encoding = sys.stdout.encoding or 'utf-8'
  return text.encode(encoding, 'replace').decode(encoding)
