"""Measures the seconds from starting the quickstart to the first loss it prints, imports and compilation included.

    python benchmarks/first_loss.py [--json] [--runs 3]

One more run, in which JAX logs its compilations, splits the time into parts.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
_FINISHED = re.compile(r'Finished (tracing|jaxpr to MLIR module conversion|XLA compilation)(?: of)? (\S+).* in '
                       r'([\d.]+) sec')
_STEP = '_update', 'jit(_update)'  # JAX's names of the step in tracing and in compilation.


def lines_to_first_loss(**environment):
  """Starts the quickstart as a user does, and stops the process after its first loss.

  Args:
    **environment: additional environment variables.

  Returns:
    [(seconds since the start, line)] of the output, with the loss as the last line.

  Raises:
    RuntimeError: the process ended without a loss.
  """
  lines = []
  with tempfile.TemporaryDirectory() as folder:
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, '-m', 'trax_hourglass.train', '--output_dir',
         os.path.join(folder, 'run')], stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **environment})
    try:
      for line in process.stderr:
        lines.append((time.monotonic() - started, line))
        if line.startswith('step 1/'):
          return lines
    finally:
      process.terminate()
      process.communicate()
  raise RuntimeError('the quickstart ended before it printed a loss')


def parts(lines):
  """Returns {part: seconds} of a run that logged its compilations."""
  seconds = {'until the first program': 0.0, 'tracing and lowering the step': 0.0, 'XLA, the step': 0.0,
             'all other programs': 0.0}
  for at, line in lines:
    told = _FINISHED.search(line)
    if told is None:
      continue
    stage, name, taken = told[1], told[2], float(told[3])
    seconds['until the first program'] = seconds['until the first program'] or at - taken
    part = 'all other programs' if name not in _STEP else 'XLA, the step' if stage.startswith(
        'XLA') else 'tracing and lowering the step'
    seconds[part] += taken
  return {**seconds, 'all else': lines[-1][0] - sum(seconds.values())}


def main():
  """Prints the median of several runs; the first run of a fresh installation also compiles Python files."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--runs', type=int, default=3)
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  args = parser.parse_args()
  seconds = [lines_to_first_loss()[-1][0] for _ in range(args.runs)]
  where = parts(lines_to_first_loss(JAX_LOG_COMPILES='1'))
  if args.json:
    print(json.dumps({'first_loss_seconds': statistics.median(seconds), 'runs': seconds, 'parts': where}))
    return
  print(f'first loss after {statistics.median(seconds):.1f} s (median of {", ".join(f"{s:.1f}" for s in seconds)})')
  print(f'of {sum(where.values()):.1f} s in another run: {", ".join(f"{part} {s:.1f}" for part, s in where.items())}')


if __name__ == '__main__':
  main()
