"""Measures the seconds from starting the quickstart to the first loss it prints, imports and compilation included.

    python benchmarks/first_loss.py [--json] [--runs 3]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def seconds_to_first_loss():
  """Starts the quickstart as a user does, and ends it once it has printed a loss.

  Raises:
    RuntimeError: it ended without one.
  """
  with tempfile.TemporaryDirectory() as folder:
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, '-m', 'trax_hourglass.train', '--output_dir', os.path.join(folder, 'run')],
                               stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
      for line in process.stderr:
        if line.startswith('step 1/'):
          return time.monotonic() - started
    finally:
      process.terminate()
      process.communicate()
  raise RuntimeError('the quickstart ended before it printed a loss')


def main():
  """Prints the median of several runs; the first of a fresh installation also compiles Python files."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--runs', type=int, default=3)
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  args = parser.parse_args()
  seconds = [seconds_to_first_loss() for _ in range(args.runs)]
  if args.json:
    print(json.dumps({'first_loss_seconds': statistics.median(seconds), 'runs': seconds}))
    return
  print(f'first loss after {statistics.median(seconds):.1f} s (median of {", ".join(f"{s:.1f}" for s in seconds)})')


if __name__ == '__main__':
  main()
