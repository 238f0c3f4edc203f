"""Measures the cost of checkpoints: seconds that training waits, slowdown of steps, bytes, seconds to restore.

    python benchmarks/checkpoints.py [--json] [--hierarchy '5@1 24@3 5@1'] [--d_model 512] ...

Steps are those of a training run of our model, and some run while a checkpoint is written. A checkpoint costs training
the wait at its start and end, and the slowdown of the steps in between. The previous checkpoint is deleted at the end.
The share of time holds for the default of `fit.checkpoint_every`. The restored checkpoint was just written, so it is
read from the page cache and not from disk.
"""

import argparse
import inspect
import json
import pathlib
import statistics
import tempfile
import time

import subjects

import jax  # pylint: disable=wrong-import-position

from trax_hourglass.cli import command_line  # pylint: disable=wrong-import-position
from trax_hourglass.runtime import gin_config
from trax_hourglass.training import checkpoints  # pylint: disable=wrong-import-position
from trax_hourglass.training import fit  # pylint: disable=wrong-import-position
from trax_hourglass.training import retention

_POINTS = 200  # Per curve, in a run of 200,000 steps.


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  subjects.add_flags(parser, d_model=512, d_ff=2048, n_heads=8)
  parser.set_defaults(hierarchy='5@1 24@3 5@1')
  parser.add_argument('--length', type=int, default=510, help='tokens of a sequence')
  parser.add_argument('--steps', type=int, default=4, help='steps measured without a checkpoint in progress')
  parser.add_argument('--folder', help='where the checkpoint is written; default: a temporary one')
  args = parser.parse_args()
  if args.steps < 1:
    parser.error(f'--steps is {args.steps}: give a number of steps, 1 at least')
  return args


def notes():
  """Returns checkpoint notes as long as those of a real run."""
  config = ''.join((gin_config.GIN_FOLDER / name).read_text() for name in ('base.gin', 'paper/enwik8.gin'))
  curves = {f'metrics/{number}': [[1000 * step, 1 / (step + 3)] for step in range(_POINTS)] for number in range(6)}
  return {'config': config, 'history': {'_values': {'train': curves}}}


def failed(step, error):
  """Raises RuntimeError, which ends the measurement."""
  raise RuntimeError(f'the checkpoint of step {step} could not be written') from error


def measure(args, folder):
  """Returns the results as one dictionary."""
  subject = subjects.Subject('ours', args, args.length)
  for number in range(args.steps + 1):  # The first compiles.
    subject.step(number)
  subject.summarise()
  alone = subject.result['step_seconds']
  store = checkpoints.Store(folder, retention.Kept(last=1), on_failure=failed)
  arrays = subject.trainer.arrays()
  store.save(1, arrays, notes())  # The first save also creates the writer.
  store.wait()
  arrays, of_run = subject.trainer.arrays(), notes()
  begun_at, started = time.time(), time.perf_counter()
  store.save(2, arrays, of_run)
  waited = time.perf_counter() - started
  number, begun = args.steps + 1, len(subject.seconds)
  while store.is_writing():
    subject.step(number)
    number += 1
  meanwhile = subject.seconds[begun:]
  started = time.perf_counter()
  store.wait()
  waited_at_end = time.perf_counter() - started
  path = pathlib.Path(store.folder) / '2'
  files = [file for file in path.rglob('*') if file.is_file()]
  arrays = subject.trainer.arrays()
  like = checkpoints.abstract(arrays, subject.trainer.sharding)
  started = time.perf_counter()
  store.check(2)
  checked = time.perf_counter() - started
  jax.block_until_ready(store.restore(2, like))
  seconds_to_restore = time.perf_counter() - started
  every = inspect.signature(fit.fit).parameters['checkpoint_every'].default
  lost = waited + waited_at_end + sum(meanwhile) - len(meanwhile) * alone
  return {
      'parameters': subject.result['parameters'],
      'bytes_in_memory': sum(x.nbytes for x in jax.tree.leaves(arrays)),
      'bytes_on_disk': sum(file.stat().st_size for file in files),
      'bytes_of_notes': (path / 'notes.json').stat().st_size,
      'step_seconds': alone,
      'step_seconds_while_writing': statistics.median(meanwhile) if meanwhile else None,
      'steps_while_writing': len(meanwhile),
      'seconds_waited': waited,
      'seconds_waited_at_end': waited_at_end,
      'seconds_to_write': max(file.stat().st_mtime for file in files) - begun_at,
      'seconds_to_check': checked,
      'seconds_to_check_and_restore': seconds_to_restore,
      'seconds_lost': lost,
      'checkpoint_every': every,
      'share_of_time': lost / (every * alone + lost),
  }


def main():
  """Prints the results."""
  args = parse_arguments()
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    report = {**subjects.machine(), 'settings': vars(args), **measure(args, folder)}
  if args.json:
    print(json.dumps(report))
    return
  print('\n'.join(f'{name}: {value:,}' if isinstance(value, int) else f'{name}: {value:.4g}' if isinstance(value, float)
                  else f'{name}: {value}' for name, value in report.items()))


if __name__ == '__main__':
  main()
