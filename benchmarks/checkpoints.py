"""Measures what checkpoints cost: seconds that training waits, how much a step slows down meanwhile, bytes, seconds to restore.

    python benchmarks/checkpoints.py [--json] [--hierarchy '5@1 24@3 5@1'] [--d_model 512] ...

Steps are those of a training run of our model; some are made while a checkpoint is written. The share of time is that at
`fit.checkpoint_every`'s default.
"""

import argparse
import inspect
import json
import os
import statistics
import tempfile
import time

import subjects

import jax  # pylint: disable=wrong-import-position
import numpy as np  # pylint: disable=wrong-import-position

from trax_hourglass import checkpoints  # pylint: disable=wrong-import-position
from trax_hourglass.training import fit  # pylint: disable=wrong-import-position


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  subjects.add_flags(parser, d_model=512, d_ff=2048, n_heads=8)
  parser.set_defaults(hierarchy='5@1 24@3 5@1')
  parser.add_argument('--length', type=int, default=510, help='tokens of a sequence')
  parser.add_argument('--steps', type=int, default=4, help='steps measured alone')
  parser.add_argument('--folder', help='where the checkpoint is written; default: a temporary one')
  return parser.parse_args()


def measure(args, folder):
  """Returns the results as one dictionary."""
  subject = subjects.Subject('ours', args, args.length)
  for number in range(args.steps + 1):  # The first compiles.
    subject.step(number)
  subject.summarise()
  alone = subject.result['step_seconds']
  store = checkpoints.Store(folder)
  arrays = subject.trainer.arrays()
  started = time.perf_counter()
  store.save(1, arrays, {})
  waited = time.perf_counter() - started
  number, begun = args.steps + 1, len(subject.seconds)
  while store.is_writing():
    subject.step(number)
    number += 1
  meanwhile = subject.seconds[begun:]
  store.wait()
  written = time.perf_counter() - started
  size = sum(os.path.getsize(os.path.join(path, name)) for path, _, names in os.walk(folder) for name in names)
  like = checkpoints.abstract(arrays, subject.trainer.sharding)
  started = time.perf_counter()
  store.check(1)
  checked = time.perf_counter() - started
  restored = jax.block_until_ready(store.restore(1, like))
  seconds_to_restore = time.perf_counter() - started
  every = inspect.signature(fit.fit).parameters['checkpoint_every'].default
  lost = waited + sum(meanwhile) - len(meanwhile) * alone
  return {
      'parameters': subject.result['parameters'],
      'bytes_in_memory': sum(np.size(x) * 4 for x in jax.tree.leaves(restored)),
      'bytes_on_disk': size,
      'step_seconds': alone,
      'step_seconds_while_writing': statistics.median(meanwhile) if meanwhile else None,
      'steps_while_writing': len(meanwhile),
      'seconds_waited': waited,
      'seconds_to_write': written,
      'seconds_to_check': checked,
      'seconds_to_restore': seconds_to_restore,
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
