"""Compares a step's temporaries as `plan` reports them with the growth of resident memory.

    python benchmarks/memory.py --config_file gin/quickstart.gin --config 'batch_size = 96' [--steps 3] [--json]

For CPUs, and steps with temporaries above 1 GiB: smaller ones are hidden by memory that the allocator already holds.
"""

import argparse
import ctypes
import json
import os
import threading
import time

import subjects  # Finds the package.  pylint: disable=unused-import

import jax  # pylint: disable=wrong-import-position
import numpy as np  # pylint: disable=wrong-import-position

from trax_hourglass import registry  # Registers with gin.  pylint: disable=unused-import, wrong-import-position
from trax_hourglass.planning import step_program  # pylint: disable=wrong-import-position
from trax_hourglass.runtime import gin_config  # pylint: disable=wrong-import-position
from trax_hourglass.runtime import sharding  # pylint: disable=wrong-import-position
from trax_hourglass.training.settings import Settings  # pylint: disable=wrong-import-position


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config_file', action='append', default=[], help='gin file')
  parser.add_argument('--config', action='append', default=[], help='gin binding')
  parser.add_argument('--steps', type=int, default=3, help='steps to measure')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  return parser.parse_args()


def resident_bytes():
  """Returns this process's resident memory."""
  with open('/proc/self/statm', encoding='ascii') as statm:
    return int(statm.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def growth(function):
  """Returns (result of the function, largest growth of resident memory in bytes while it ran)."""
  time.sleep(1.0)  # XLA frees a step's memory a little after its results are ready.
  ctypes.CDLL('libc.so.6').malloc_trim(0)
  before, most, done = resident_bytes(), [0], threading.Event()

  def watch():
    while not done.wait(0.002):
      most[0] = max(most[0], resident_bytes())

  thread = threading.Thread(target=watch)
  thread.start()
  try:
    return function(), max(0, most[0] - before)
  finally:
    done.set()
    thread.join()


def main():
  """Compiles the step, runs it with zero weights, and prints one line per step."""
  args = parse_arguments()
  gin_config.parse_gin(args.config_file or ['quickstart.gin'], args.config)
  program = step_program.StepProgram(Settings.read(), sharding.over_devices(1))
  arguments = program.arguments()
  compiled = program.trainer.update.lower(*arguments).compile()
  planned = compiled.memory_analysis().temp_size_in_bytes
  held, *rest = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), arguments)
  rows = []
  for _ in range(args.steps):
    started = time.perf_counter()
    (held, _), grew = growth(lambda held=held: jax.block_until_ready(compiled(held, *rest)))
    rows.append({'planned_bytes': planned, 'grew_bytes': grew, 'ratio': grew / planned,
                 'seconds': time.perf_counter() - started})
  if args.json:
    print(json.dumps(rows))
  else:
    for row in rows:
      print(f'planned {row["planned_bytes"] / 2**30:.3f} GiB, resident grew by {row["grew_bytes"] / 2**30:.3f} GiB '
            f'({row["ratio"]:.3f}) in {row["seconds"]:.1f} s')


if __name__ == '__main__':
  main()
