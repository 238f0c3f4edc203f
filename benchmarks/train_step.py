"""Measures one training step of our Hourglass, our flat baseline and Trax's Hourglass in Trax's trainer, side by side.

    python benchmarks/train_step.py [--json] [--hierarchy '2@1 4@3 2@1'] [--length 2046] [--compile_only] ...

Steps alternate between the models (A B C A B C ...); times are medians with the quartiles' distance. Bytes and FLOPs are
the compiler's own count for the compiled step, matrix products inside loops counted once, so FLOPs are not compared.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from trax_hourglass import trax_compat  # pylint: disable=unused-import, wrong-import-position

import jax  # pylint: disable=wrong-import-position
import numpy as np  # pylint: disable=wrong-import-position
import trax  # pylint: disable=wrong-import-position
from trax import layers as tl  # pylint: disable=wrong-import-position
from trax import optimizers  # pylint: disable=wrong-import-position
from trax import shapes  # pylint: disable=wrong-import-position

from trax_hourglass import configurables  # pylint: disable=wrong-import-position
from trax_hourglass import hierarchy as hierarchy_lib  # pylint: disable=wrong-import-position
from trax_hourglass.training import step  # pylint: disable=wrong-import-position


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--hierarchy', default='2@1 4@3 2@1')
  parser.add_argument('--d_model', type=int, default=512)
  parser.add_argument('--d_ff', type=int, default=2048)
  parser.add_argument('--n_heads', type=int, default=8)
  parser.add_argument('--dropout', type=float, default=0.1)
  parser.add_argument('--recompute', default='elementwise', help='ours and flat only; see Hourglass.recompute')
  parser.add_argument('--length', type=int, default=2046, help='tokens; a multiple of the factors, for Trax\'s model')
  parser.add_argument('--batch', type=int, default=1)
  parser.add_argument('--steps', type=int, default=7, help='measured steps of each model')
  parser.add_argument('--compile_only', action='store_true', help='bytes and compile time, no steps')
  parser.add_argument('--models', default='ours,flat,trax', help='which of these, by commas')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  return parser.parse_args()


def our_model(args, hierarchy):
  """Returns our Hourglass at the given hierarchy."""
  return configurables.Hourglass(256, hierarchy, args.d_model, args.d_ff, args.n_heads, args.dropout,
                                 recompute=args.recompute)


def flat_hierarchy(hierarchy):
  """Returns the flat hierarchy with the same number of blocks, resamplings (one block each) not counted."""
  return f'{sum(level.n_before + level.n_after for level in hierarchy_lib.parse(hierarchy))}@1'


def trax_model(args):
  """Returns the authors' Hourglass with the same sizes and the same layer types."""
  first, *inner, last = args.hierarchy.split()
  return trax.models.HourglassLM(
      256, args.d_model, args.d_ff, vanilla_layers=tuple(int(part.split('@')[0]) for part in (first, last)),
      hierarchy=' '.join(inner), n_heads=args.n_heads, dropout=args.dropout, mode='train')


class Subject:
  """A model with its trainer and what was measured of it."""

  def __init__(self, name, model, batch, make_trainer):
    self.name = name
    started = time.perf_counter()
    model_with_loss = tl.Serial(model, tl.WeightedCategoryCrossEntropy())
    model_with_loss.init(shapes.signature(batch))
    optimizer = optimizers.Adam(4e-4, weight_decay_rate=0.0, b2=0.98, eps=1e-9)
    optimizer.tree_init(model_with_loss.weights)
    self.trainer = make_trainer(model_with_loss, optimizer)
    self.batch = batch
    self.seconds = []
    self.result = {'parameters': sum(np.size(w) for w in jax.tree.leaves(model.weights)),
                   'init_seconds': time.perf_counter() - started}

  def compile(self):
    """Compiles the step ahead of time and notes seconds and bytes."""
    started = time.perf_counter()
    lowered = self._update().lower(*self._update_arguments())
    traced = time.perf_counter()
    compiled = lowered.compile()
    self.result.update(
        trace_seconds=traced - started,
        compile_seconds=time.perf_counter() - traced,
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes)

  def _update(self):
    trainer = self.trainer
    return trainer.update if isinstance(trainer, step.Trainer) else jax.jit(trainer._accelerated_update_fn)

  def _update_arguments(self):
    trainer, rng = self.trainer, jax.random.PRNGKey(0)
    if isinstance(trainer, step.Trainer):
      return trainer.arguments(self.batch, rng, 1, 4e-4)
    model = trainer.accelerated_model_with_loss
    return (model.weights, trainer.slots), 1, trainer._opt_params, self.batch, model.state, rng

  def step(self, number):
    """Runs and times one step."""
    started = time.perf_counter()
    loss, _ = self.trainer.one_step(self.batch, jax.random.PRNGKey(number), number, 4e-4)
    self.result['last_loss'] = float(loss)
    jax.block_until_ready(self.trainer.slots)
    self.seconds.append(time.perf_counter() - started)

  def summarise(self, tokens):
    """Adds times to the result; the first step, which compiles, is left out."""
    if len(self.seconds) > 1:
      quarters = statistics.quantiles(self.seconds[1:], n=4)
      self.result.update(step_seconds=quarters[1], step_seconds_spread=quarters[2] - quarters[0],
                         tokens_per_second=tokens / quarters[1], steps_measured=len(self.seconds) - 1)


def measure(args):
  """Returns all results as one dictionary."""
  tokens = np.random.RandomState(0).randint(0, 256, (args.batch, args.length)).astype(np.int32)
  batch = (tokens, tokens, np.ones(tokens.shape, np.float32))
  makers = {
      'ours': lambda: Subject('ours', our_model(args, args.hierarchy), batch, step.Trainer),
      'flat': lambda: Subject('flat', our_model(args, flat_hierarchy(args.hierarchy)), batch, step.Trainer),
      'trax': lambda: Subject('trax', trax_model(args), batch, optimizers.Trainer),
  }
  subjects = [makers[name]() for name in args.models.split(',')]
  for subject in subjects:
    print(f'compiling {subject.name} ...', file=sys.stderr)
    subject.compile()
  for number in range(0 if args.compile_only else args.steps + 1):
    for subject in subjects:
      subject.step(number)
      print(f'step {number} {subject.name}: {subject.seconds[-1]:.2f} s', file=sys.stderr)
  for subject in subjects:
    subject.summarise(args.batch * args.length)

  device = jax.devices()[0]
  results = {subject.name: subject.result for subject in subjects}
  report = {'device': f'{device.platform} {device.device_kind}', 'cores': os.cpu_count(), 'machine': platform.machine(),
            'jax': jax.__version__, 'python': platform.python_version(), 'dtype': 'float32',
            'settings': {k: v for k, v in vars(args).items() if k != 'json'}, 'models': results}
  if {'ours', 'trax'} <= set(results):
    ours, theirs = results['ours'], results['trax']
    for key in ('temporary_bytes', 'compile_seconds', 'step_seconds'):
      if key in ours:
        name = {'step_seconds': 'step_time'}.get(key, key)
        report[f'{name}_ratio_trax_over_ours'] = theirs[key] / ours[key]
  return report


def table(report):
  """Returns the report as a markdown table, one row a model."""
  columns = ('parameters', 'init_seconds', 'trace_seconds', 'compile_seconds', 'temporary_bytes', 'step_seconds',
             'step_seconds_spread', 'tokens_per_second', 'last_loss')
  columns = [c for c in columns if any(c in row for row in report['models'].values())]
  def cell(value):
    return f'{value:,}' if isinstance(value, int) else f'{value:.4g}' if isinstance(value, float) else ''
  lines = [f'{report["device"]}, {report["cores"]} cores, jax {report["jax"]}, {report["dtype"]}; {report["settings"]}',
           '', f'| model | {" | ".join(columns)} |', '|---' * (len(columns) + 1) + '|']
  lines += [f'| {name} | {" | ".join(cell(row.get(c)) for c in columns)} |' for name, row in report['models'].items()]
  lines += [''] + [f'{key}: {value:.2f}' for key, value in report.items() if key.endswith('trax_over_ours')]
  return '\n'.join(lines)


if __name__ == '__main__':
  arguments = parse_arguments()
  result = measure(arguments)
  print(json.dumps(result) if arguments.json else table(result))
