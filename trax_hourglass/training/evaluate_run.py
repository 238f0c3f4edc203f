"""Scores an opened run in windows set by a protocol or the user, with corpus and sizes from the run's config."""

import dataclasses
import math

import jax

from trax_hourglass.data import fingerprint
from trax_hourglass.inference import scoring
from trax_hourglass.runtime import checks
from trax_hourglass.runtime import distributed
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime.progress import Progress


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Holds a score with its origin.

  Attributes:
    score: the Score.
    unit: unit of a token, 'byte', 'dim' or 'token'.
    split: 'train', 'valid' or 'test'.
    protocol: name of the protocol, or None.
    step: training steps of the model, or None if its checkpoint does not record them.
    checkpoint: path of the checkpoint.
  """
  score: scoring.Score
  unit: str
  split: str
  protocol: str | None
  step: int | None
  checkpoint: str

  def as_dict(self):
    """Returns all fields; the bits are named by their unit: 'bits_per_byte', 'bits_per_dim' or 'bits_per_token'."""
    score = dataclasses.asdict(self.score)
    return {
        f'bits_per_{self.unit}': score.pop('bits_per_token'), **score, 'context': self.score.context,
        **{name: getattr(self, name) for name in ('split', 'protocol', 'step', 'checkpoint')}}


def evaluate(run, split='valid', protocol=None, context=None, stride=None, max_tokens=None, batch_size=None):
  """Scores a run's model on its corpus.

  Args:
    run: a run_directory.Run in mode 'eval'.
    split: 'train', 'valid' or 'test'.
    protocol: a name in scoring.PROTOCOLS, or None for windows as long as in training, without context.
    context: minimum context of a scored token, in tokens, in place of the protocol's; None for the protocol's.
    stride: tokens between the starts of windows, in place of the protocol's; None for the protocol's.
    max_tokens: number of tokens to score, from the first on; None for all.
    batch_size: windows per batch; None for the training batch size.

  Returns:
    The Evaluation.

  Raises:
    InputError: an unknown split or protocol, numbers out of their range, tokens outside the model's vocabulary, or
      hosts with different data.
  """
  with distributed.together('reading the data'):
    corpus = run.settings.corpus
    data = corpus.split(split)
    seen = fingerprint.fingerprint(data, getattr(run.model, 'vocab_size', math.inf)) if jax.process_count() > 1 else ''
  distributed.check_same('data', seen)
  length, stride = window_sizes(protocol, context, stride, run.settings.length, data.example_length)
  batch_size = run.settings.batch_size if batch_size is None else batch_size
  checks.check_sizes(batch_size=batch_size, max_tokens=1 if max_tokens is None else max_tokens)
  scorer = scoring.Scorer(run.model, chunk=run.settings.loss_chunk)
  with Progress(f'scoring the {split} split', corpus.unit, is_shown=distributed.is_first()) as progress:
    progress.begin(0, len(data))
    score = scorer.score(run.model.weights, run.model.state, data, batch_size, length, stride, max_tokens,
                         scoring.shown_by(progress, corpus.unit))
  return Evaluation(score, corpus.unit, split, protocol, run.step, str(run.checkpoint))


def window_sizes(protocol, context, stride, length, example_length=None):
  """Returns (window length, stride) in tokens.

  Args:
    protocol: a name in scoring.PROTOCOLS, or None for windows of `length`. Examples are scored whole in either case.
    context: minimum context in place of the resulting one, or None.
    stride: stride in place of the resulting one, or None.
    length: tokens of a window in training.
    example_length: tokens of an example, or None where the data is one text.

  Raises:
    InputError: an unknown protocol, or numbers out of their range.
  """
  if protocol is not None and protocol not in scoring.PROTOCOLS:
    raise InputError(f'protocol {protocol!r} does not exist: choose one of {", ".join(scoring.PROTOCOLS)}')
  if example_length is not None:
    length, usual_stride = example_length, example_length
  else:
    length, usual_stride = scoring.PROTOCOLS.get(protocol, (length, length))
  checks.check_sizes(stride=1 if stride is None else stride)
  if context is not None and context < 0:
    raise InputError(f'context is {context}: give a number of tokens, 0 for none')
  if context is None and stride is None:
    return length, usual_stride
  if context is not None and stride is not None:
    return context + stride, stride
  # Given only one of the two, windows keep their length.
  stride = length - context if stride is None else stride
  if not 1 <= stride <= length:
    raise InputError(f'context is {context} and stride {stride} in windows of {length} tokens: give both')
  return length, stride
