"""Kills comparisons, exports and runs that start from another's weights, and compares with uninterrupted ones.

    python tests/crash_others.py [--kills 30] [--seed 0]

Processes are ended by SIGKILL at any moment and started again until they end by themselves. A comparison must come to
the same bits and curves, an export to the same weights and never to half a file, a run with `fit.init_from` to the same
weights, slots and losses, bit by bit.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers import outcomes  # pylint: disable=wrong-import-position
from trax_hourglass.models import weight_files  # pylint: disable=wrong-import-position
from trax_hourglass.runtime.errors import InputError  # pylint: disable=wrong-import-position

_LONG = ['n_steps = 60', 'fit.checkpoint_every = 7', 'fit.eval_every = 20', 'fit.eval_batches = 20']


def command(name, *arguments):
  """Returns the command line of one of our commands."""
  return [sys.executable, '-m', f'trax_hourglass.{name}', *map(str, arguments)]


def training(output_dir, *bindings):
  """Returns the command line of a short run."""
  return command('train', '--config_file', ROOT / 'tests' / 'tiny.gin', '--output_dir', output_dir,
                 *(flag for binding in (*_LONG, *bindings) for flag in ('--config', binding)))


def run(line, limit=None):
  """Runs a command line; returns (ended by itself, seconds).

  Raises:
    RuntimeError: it failed.
  """
  started = time.monotonic()
  process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
  try:
    _, said = process.communicate(timeout=limit)
  except subprocess.TimeoutExpired:
    process.kill()
    process.communicate()
    return False, time.monotonic() - started
  if process.returncode:
    raise RuntimeError(f'{line} ended with {process.returncode}: {said.decode()[-2000:]}')
  return True, time.monotonic() - started


def killed(line, seconds, generator, check=lambda: None):
  """Kills a command at random moments until it ends by itself; returns the number of kills."""
  n_kills = 0
  while not run(line, generator.uniform(0, seconds))[0]:
    n_kills += 1
    check()
  return n_kills


def results(folder):
  """Returns the part of a comparison's results that does not depend on time."""
  rows = json.loads((folder / 'results.json').read_text())['rows']
  return [(row['name'], row['bits_of_seeds'], row.get('curves')) for row in rows]


def weights(path):
  """Returns the bytes of a file's weights, None where there is no file.

  Raises:
    RuntimeError: it is half a file.
  """
  if not path.exists():
    return None
  try:
    return [array.tobytes() for array in weight_files.read(path).arrays]
  except InputError as error:
    raise RuntimeError(f'an export that was killed left {error}') from error


def main():
  """Kills each kind in turn until there were enough kills; prints their numbers, and fails for a difference."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--kills', type=int, default=30, help='of each kind')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  generator = random.Random(args.seed)
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    run(training(folder / 'source'))
    comparison = ('compare', '--config_file', ROOT / 'tests' / 'tiny_compare.gin', '--output_dir')
    export = ('export', '--output_dir', folder / 'source', '--to')
    init = f"fit.init_from = '{folder / 'source'}'"
    kinds = {
        'comparison': (lambda path: command(*comparison, path), results),
        'export': (lambda path: command(*export, path.with_suffix('.safetensors')),
                   lambda path: weights(path.with_suffix('.safetensors'))),
        'init_from': (lambda path: training(path, init, 'fit.seed = 5'), outcomes.outcome),
    }
    for kind, (line, outcome) in kinds.items():
      _, seconds = run(line(folder / kind))
      expected, n_kills, n_runs = outcome(folder / kind), 0, 0
      while n_kills < args.kills:
        path = folder / f'{kind}_{n_runs}'
        check = (lambda path=path: weights(path.with_suffix('.safetensors'))) if kind == 'export' else lambda: None
        n_kills += killed(line(path), 1.5 * seconds, generator, check)
        n_runs += 1
        found = outcome(path)
        wrong = outcomes.differences(found, expected) if kind == 'init_from' else found != expected
        if wrong:
          raise SystemExit(f'{kind}: differs from the one that was never killed: {wrong}')
      print(f'{kind}: {n_kills} kills in {n_runs} runs, all equal', flush=True)


if __name__ == '__main__':
  main()
