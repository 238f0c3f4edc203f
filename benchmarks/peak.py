"""Lists what is alive at the peak of a training step's memory, as the compiler of a CPU or GPU plans it.

    python benchmarks/peak.py --config_file gin/paper/enwik8_ablation.gin --topology h100 [--at_least 8]

Values are summed by the operation that made them, without indices of a tuple. A name begins with the pass:
`transpose(jvp(...))` is the backward one. Arguments stand together; donated ones are overwritten by the new weights.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
_LEAF = re.compile(r'[├└]── (.*) \(([\d.]+)%, total: ([\d ]+) bytes, current: ([\d ]+) bytes')
_MIB = 2**20


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--config_file', action='append', default=[], help='gin file')
  parser.add_argument('--config', action='append', default=[], help='gin binding')
  parser.add_argument('--topology', default='cpu', help='cpu, h100 or h200, see `plan`')
  parser.add_argument('--at_least', type=float, default=4.0, metavar='MIB', help='smaller rows stand together')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  return parser.parse_args()


def dumped(args):
  """Returns (the plan, XLA's text of live ranges) of the step, compiled in a process of its own."""
  bindings = [word for binding in args.config for word in ('--config', binding)]
  files = [word for name in args.config_file for word in ('--config_file', name)]
  with tempfile.TemporaryDirectory() as folder:
    flags = f'--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*update.*'
    ended = subprocess.run(
        [sys.executable, '-m', 'trax_hourglass.plan', *files, *bindings, '--topology', args.topology, '--json'],
        env={**os.environ, 'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {flags}', 'PYTHONPATH': os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])},
        stdout=subprocess.PIPE, check=True, text=True)
    found = sorted(pathlib.Path(folder).glob('*live-range.txt'), key=lambda file: file.stat().st_size)
    if not found:
      raise SystemExit(f'the compiler of {args.topology} writes no live ranges')
    return json.loads(ended.stdout), found[-1].read_text(encoding='utf-8')


def alive(text):
  """Returns [(bytes, name)] of the values at the peak, summed by name, the largest first."""
  _, _, tree = text.rpartition('Stack trace breakdown for peak usage')
  sums = collections.Counter()
  for line in tree.splitlines():
    found = _LEAF.search(line)
    if found:
      sums[name_of(found[1])] += int(found[4].replace(' ', ''))
  return [(n_bytes, name) for name, n_bytes in sums.most_common()]


def name_of(path):
  """Returns an operation's path without what says nothing: functions around it, tuples' indices."""
  if path.startswith('weights_state_slots'):
    return 'weights, state, slots'
  path = re.sub(r'\{\d+\}|\.\d+$|jit\(_update\)/', '', path)
  return re.sub(r'\btranspose\(jvp\(\)?', 'backward(', re.sub(r'/(closed_call|checkpoint|while|body)\b', '', path))


def main():
  """Prints the list."""
  args = parse_arguments()
  plan, text = dumped(args)
  rows = alive(text)
  small = sum(n_bytes for n_bytes, _ in rows if n_bytes < args.at_least * _MIB)
  rows = [row for row in rows if row[0] >= args.at_least * _MIB] + [(small, 'smaller ones')]
  if args.json:
    print(json.dumps({'topology': args.topology, 'temporary_bytes': plan['temporary_bytes'], 'alive': rows}))
    return
  print(f'{args.topology}: temporaries {plan["temporary_bytes"] / _MIB:.0f} MiB; alive at the peak, MiB:')
  for n_bytes, name in rows:
    print(f'{n_bytes / _MIB:8.0f}  {name}')


if __name__ == '__main__':
  main()
