"""Measures sampling, token by token: our Hourglass, our flat baselines and Trax's models, side by side.

    python benchmarks/decode.py [--json] [--lengths 256,2046] [--batches 1]
        [--models ours,flat,flat_equal_time,trax,trax_lm,words,words_flat]

    ours              Hourglass in mode 'predict', decoding.Sampler
    flat              a flat model with as many blocks, the same code
    flat_equal_time   a flat model whose training step takes as long as ours
    words             groups that end with words, decoding.Sampler
    words_flat        the smallest flat model whose forward pass has at least as many operations, the same code
    trax              trax.models.HourglassLM, which has no mode 'predict': a whole forward pass per token
    trax_lm           trax.models.TransformerLM in mode 'predict', trax.supervised.decoding.autoregressive_sample_stream

At each length, a model reads a prompt of nearly that length, and then writes a few tokens. Models and lengths
alternate, and times are medians over the turns. The KV caches of our models always have the capacity of the longest
length. Bytes are those of the whole state, with a capacity of just the row's length. Weights are initial ones except
for the last layer's. With these, our models write words as long as enwik8's: 5.5 letters and a space.
"""

import argparse
import functools
import gc
import json
import math
import statistics
import sys
import time

import subjects

import jax  # pylint: disable=wrong-import-position
import numpy as np  # pylint: disable=wrong-import-position
import trax  # pylint: disable=wrong-import-position
from trax import shapes  # pylint: disable=wrong-import-position
from trax.supervised import decoding as trax_decoding  # pylint: disable=wrong-import-position

from trax_hourglass.inference import decoding  # pylint: disable=wrong-import-position
from trax_hourglass.models import flops  # pylint: disable=wrong-import-position
from trax_hourglass import registry  # pylint: disable=wrong-import-position

WORDS = {'shortening': registry.ShortenAtBoundaries, 'upsampling': registry.UpsampleFromBoundaries,
         'boundaries': registry.EndOfWord}


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--hierarchy', default='2@1 4@3 2@1')
  parser.add_argument('--flat_equal_time', default='7@1', help='the flat hierarchy whose training step takes as long')
  parser.add_argument('--words', default='2@1 4@5 2@1', help='the hierarchy of groups that end with words')
  parser.add_argument('--d_model', type=int, default=512)
  parser.add_argument('--d_ff', type=int, default=2048)
  parser.add_argument('--n_heads', type=int, default=8)
  parser.add_argument('--dtype', default='float32', help='of ours and flat')
  parser.add_argument('--lengths', default='256,2046', help='by commas')
  parser.add_argument('--batches', default='1', help='by commas')
  parser.add_argument('--models', default='ours,flat,flat_equal_time,trax,trax_lm', 
                      help='models to measure, comma-separated')
  parser.add_argument('--tokens', type=int, default=24, help='tokens per turn')
  parser.add_argument('--turns', type=int, default=5, help='measured turns of each model')
  parser.add_argument('--max_gigabytes', type=float, default=8.0, help='leave out what needs a larger state')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  return parser.parse_args()


def letters():
  """Returns the probability of each byte, (256,), in a text of letters and spaces with groups of 6.5 bytes."""
  probabilities = np.zeros(256)
  probabilities[ord('a'):ord('z') + 1] = (1 - 1 / 6.5) / 26
  probabilities[ord(' ')] = 1 / 6.5
  return probabilities


def sizes(args):
  """Returns the sizes that all models share."""
  return {'vocab_size': 256, 'd_model': args.d_model, 'd_ff': args.d_ff, 'n_heads': args.n_heads}


def flat_of_equal_operations(args, length):
  """Returns the hierarchy of the smallest flat model with at least as many operations per token as `words`."""
  def operations(hierarchy, **options):
    model = registry.Hourglass(**sizes(args), hierarchy=hierarchy, mode='eval', **options)
    model.init(shapes.ShapeDtype((1, 10), np.int32))
    return flops.forward(model, 1, length)

  wanted, one, two = operations(args.words, **WORDS), operations('1@1'), operations('2@1')
  return f'{2 + math.ceil((wanted - two) / (two - one))}@1'


class Sampling:
  """Holds one of our models and its sampler, with capacity for the longest length."""

  def __init__(self, args, hierarchy, room, **options):
    self.make = functools.partial(registry.Hourglass, **sizes(args), hierarchy=hierarchy, mode='predict', **options)
    self.itemsize = {'float32': 4, 'bfloat16': 2}[args.dtype]
    model = self.make(max_length=room)
    model.init(shapes.ShapeDtype((1, 1), np.int32))
    *below, (kernel, _), last = model.weights
    model.weights = *below, (0 * kernel, np.log(letters() + 1e-30).astype(np.float32)), last
    self.sampler = decoding.Sampler(model, piece=args.tokens, dtype=args.dtype)


class Ours:
  """Runs our model at one batch size and length."""

  def __init__(self, sampling, batch):
    del batch
    self._sampling = sampling

  def state_bytes(self, batch, length):
    """Returns the bytes of the state with capacity for just that length."""
    state = jax.eval_shape(lambda: self._sampling.make(max_length=length).start(batch))
    return sum(leaf.size * (self._sampling.itemsize if leaf.ndim else 4) for leaf in jax.tree.leaves(state))

  def begin(self, prompts, n_tokens):
    """Reads the prompts and prepares to write n_tokens tokens."""
    self._pieces = self._sampling.sampler.stream(prompts, n_tokens)
    next(self._pieces)  # The prompt's own pass yields the first token.

  def turn(self, n):
    """Writes n tokens."""
    if len(next(self._pieces)[0].tokens) != n:
      raise RuntimeError(f'a piece of another length than {n}')


class TraxHourglass:
  """Runs the authors' model, with a whole forward pass per token."""

  def __init__(self, args, batch):
    del batch
    first, *inner, last = args.hierarchy.split()
    self._factor = subjects.hierarchy_lib.parse(args.hierarchy)[-1].total_factor
    self._model = trax.models.HourglassLM(**sizes(args), vanilla_layers=tuple(
        int(part.split('@')[0]) for part in (first, last)), hierarchy=' '.join(inner), mode='eval')
    self._model.init(shapes.ShapeDtype((1, self._factor), np.int32))
    self._forward = jax.jit(lambda weights, state, x: self._model.pure_fn(x, weights, state, jax.random.PRNGKey(0))[0])

  def begin(self, prompts, n_tokens):
    """Reads the prompts and prepares to write n_tokens tokens."""
    n = len(prompts[0]) + n_tokens
    self._tokens = np.zeros((len(prompts), -(-n // self._factor) * self._factor), np.int32)
    self._step()

  def turn(self, n):
    """Writes n tokens."""
    for _ in range(n):
      self._step()

  def _step(self):
    jax.block_until_ready(self._forward(self._model.weights, self._model.state, self._tokens))


class TraxLM:
  """Runs Trax's flat model in mode 'predict' with Trax's sampler."""

  def __init__(self, args, room, batch):
    self._model = trax.models.TransformerLM(**sizes(args), n_layers=int(
        subjects.flat_hierarchy(args.hierarchy).split('@')[0]), max_len=room, mode='predict')
    self._model.init(shapes.ShapeDtype((batch, 1), np.int32))
    self._start = self._model.state

  def state_bytes(self, batch, length):
    """Returns the bytes of the state; Trax's attention layers have a fixed capacity."""
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(self._start))

  def begin(self, prompts, n_tokens):
    """Reads the prompts and prepares to write n_tokens tokens."""
    self._model.state = self._start
    inputs = np.stack(prompts)
    self._stream = trax_decoding.autoregressive_sample_stream(self._model, inputs, batch_size=len(prompts))
    next(self._stream)

  def turn(self, n):
    """Writes n tokens."""
    for _ in range(n):
      jax.block_until_ready(next(self._stream))


def measure_batch(args, batch, lengths, models):
  """Returns a row per model and length at one batch size; all of them alternate."""
  n_tokens = args.tokens * (args.turns + 1)  # The first turn compiles.
  rows, running = [], []
  for length in lengths:
    prompt = np.random.RandomState(0).choice(256, max(0, length - n_tokens - 1), p=letters()).astype(np.int32)
    for name, make in models.items():
      model = make(batch)
      row = {'model': name, 'batch': batch, 'length': length}
      rows.append(row)
      if hasattr(model, 'state_bytes'):
        row['state_bytes'] = model.state_bytes(batch, length)
        if row['state_bytes'] > args.max_gigabytes * 1e9:
          continue
      print(f'{name}, batch {batch}, length {length}: prompt ...', file=sys.stderr)
      started = time.perf_counter()
      model.begin([prompt] * batch, n_tokens + 1)
      row['prompt_seconds_with_compiling'] = time.perf_counter() - started
      running.append((row, model, []))
  for turn in range(args.turns + 1):
    for row, model, seconds in running:
      n = 1 if row['model'] == 'trax' else args.tokens
      started = time.perf_counter()
      model.turn(n)
      if turn:
        seconds.append((time.perf_counter() - started) / n)
  for row, _, seconds in running:
    quarters = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    row.update(seconds_per_token=quarters[1], seconds_per_token_spread=quarters[2] - quarters[0],
               least_seconds_per_token=min(seconds), tokens_per_second=batch / quarters[1])
    print(f'{row["model"]}, batch {batch}, length {row["length"]}: {quarters[1] * 1e3:.2f} ms per token',
          file=sys.stderr)
  return rows


def measure(args):
  """Returns all results as one dictionary."""
  lengths, batches = ([int(n) for n in numbers.split(',')] for numbers in (args.lengths, args.batches))
  names = args.models.split(',')
  room = max(lengths)
  rows = []
  hierarchies = {
      'ours': args.hierarchy, 'flat': subjects.flat_hierarchy(args.hierarchy), 'flat_equal_time': args.flat_equal_time
  }
  if 'words_flat' in names:
    hierarchies['words_flat'] = flat_of_equal_operations(args, room)
  samplers = {name: Sampling(args, hierarchy, room) for name, hierarchy in hierarchies.items() if name in names}
  if 'words' in names:
    samplers['words'] = Sampling(args, args.words, room, **WORDS)
  models = {name: functools.partial(Ours, sampling) for name, sampling in samplers.items()}
  if 'trax' in names:
    models['trax'] = functools.partial(TraxHourglass, args)
  if 'trax_lm' in names:
    models['trax_lm'] = functools.partial(TraxLM, args, room)
  for batch in batches:
    rows += measure_batch(args, batch, lengths, {name: models[name] for name in names})
    gc.collect()
  report = {**subjects.machine(), 'dtype': args.dtype, 'words_flat': hierarchies.get('words_flat'),
            'settings': {k: v for k, v in vars(args).items() if k != 'json'}, 'rows': rows}
  rate = {(row['model'], row['batch'], row['length']): row.get('tokens_per_second') for row in rows}
  at = batches[0], room
  for key, other in (('trax', 'trax'), ('flat', 'flat'), ('flat_equal_time', 'flat_equal_time'),
                     ('trax_lm', 'trax_lm')):
    if rate.get(('ours', *at)) and rate.get((other, *at)):
      report[f'tokens_per_second_ratio_ours_over_{key}'] = rate['ours', *at] / rate[other, *at]
  if rate.get(('words', *at)) and rate.get(('words_flat', *at)):
    report['tokens_per_second_ratio_words_over_words_flat'] = rate['words', *at] / rate['words_flat', *at]
  if rate.get(('ours', *at)) and len(lengths) > 1:
    report['time_ratio_longest_over_shortest_length'] = rate['ours', batches[0], min(lengths)] / rate['ours', *at]
  return report


def table(report):
  """Returns the report as a markdown table."""
  columns = ('model', 'batch', 'length', 'state_bytes', 'seconds_per_token', 'seconds_per_token_spread',
             'tokens_per_second')
  machine = {key: report[key] for key in (*subjects.machine(), 'dtype', 'settings')}
  lines = [str(machine), '', subjects.markdown(report['rows'], columns)]
  lines += [''] + [f'{key}: {value:.2f}' for key, value in report.items() if 'ratio' in key]
  return '\n'.join(lines)


if __name__ == '__main__':
  arguments = parse_arguments()
  result = measure(arguments)
  print(json.dumps(result) if arguments.json else table(result))
