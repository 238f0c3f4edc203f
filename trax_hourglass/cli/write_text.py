"""Generates texts with a trained model and streams them to the terminal."""

import codecs
import json
import pathlib
import sys

import numpy as np

from trax_hourglass.cli import sampling
from trax_hourglass.inference import moving_window
from trax_hourglass.runtime.errors import InputError

_TEXT_LENGTH = 500


def write_texts(args):
  """Streams texts to stdout and prints throughput and bits to stderr, or prints one JSON object.

  Raises:
    InputError: the model's tokens are not bytes, the prompt file is empty, the prompt exceeds the model's capacity, or
      another argument is out of range.
  """
  prompt = _prompt(args)
  length = _TEXT_LENGTH if args.length is None else args.length
  model = sampling.open_run(args).model
  if model.vocab_size > 256:
    raise InputError(f'the model knows {model.vocab_size} tokens, pieces of a learnt vocabulary, and only bytes can be '
                     'shown as text: sample from it in Python by trax_hourglass.decoding, and decode by its vocabulary')
  if model.vocab_size < 256 and max(prompt, default=0) >= model.vocab_size:
    raise InputError(f'the prompt holds byte {max(prompt)} and the model knows 0 .. {model.vocab_size - 1}')
  sampler, prompts = sampling.make_sampler(args, model), [prompt] * args.count
  # Invalid arguments raise here, before any output.
  pieces = (sampler.stream(prompts, length, args.seed) if args.window is None else
            moving_window.stream(sampler, prompts, length, args.window, args.seed))
  show = _Terminal(prompt, args.count, args.json)
  written = sampling.write(pieces, show)
  texts = [_bytes(sample).decode('utf-8', 'replace') for sample in written.samples]
  show.finish(texts)
  if args.json:
    print(json.dumps({'prompt': prompt.decode('utf-8', 'replace'), 'texts': texts, **written.summary('byte')}))
    return
  speed = written.tokens_per_second
  speed = 'too few tokens to measure speed' if speed is None else f'{speed:,.0f} bytes/s'
  print(f'{sum(len(sample.tokens) for sample in written.samples):,} bytes, {speed}, {written.bits_per_token:.3f} bits '
        f'per byte under the model, {written.seconds:.1f} s including compilation', file=sys.stderr)


def _prompt(args):
  """Returns the prompt's bytes."""
  if args.prompt_file is None:
    # Restores command-line bytes that are not UTF-8 from Python's decoding.
    return (args.prompt or '').encode('utf-8', 'surrogateescape')
  try:
    prompt = pathlib.Path(args.prompt_file).expanduser().read_bytes()
  except OSError as error:
    raise InputError(f'prompt_file {args.prompt_file!r} cannot be read: {error.strerror}') from None
  if not prompt:
    raise InputError(f'prompt_file {args.prompt_file!r} is empty: leave it out to begin with nothing')
  return prompt


def _bytes(sample):
  return sample.tokens.astype(np.uint8).tobytes()


class _Terminal:
  """Streams the first text in whole characters, and prints the other texts once all are complete."""

  def __init__(self, prompt, count, silent):
    self._silent = silent
    self._decoder = codecs.getincrementaldecoder('utf-8')('replace')
    self._prompt, self._count = prompt, count
    self._header(0)
    self._write(self._decoder.decode(prompt))

  def __call__(self, samples):
    self._write(self._decoder.decode(_bytes(samples[0])))

  def finish(self, texts):
    """Ends the first text and prints the others."""
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
    sys.stdout.write(sampling.printable(text))
    sys.stdout.flush()
