"""Lists the values alive at the memory peak of a training step, as a platform's compiler plans them.

    python benchmarks/peak.py --config_file gin/paper/enwik8_ablation.gin --topology h100 [--at_least 8]

Values are summed by the operation that created them, prefixed with the forward or backward pass if known. Arguments
are one row, and the new weights and slots overwrite them. XLA for CPUs and GPUs lists the peak itself. For TPUs, libtpu
writes when each value is created and used. Loops count as the values that they carry. XLA lists a value that several
loops carry once, so the rows of a step without remat sum to less than its temporaries.
"""

import argparse
import collections
import csv
import json
import os
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
_LEAF = re.compile(r'[├└]── (.*) \([\d.]+%, total: [\d ]+ bytes, current: ([\d ]+) bytes')
_OPERATION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', re.MULTILINE)
_MIB = 2**20


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--config_file', action='append', default=[], help='gin file')
  parser.add_argument('--config', action='append', default=[], help='gin binding')
  parser.add_argument('--topology', default='cpu', help='platform to compile for, as in `plan`; one device')
  parser.add_argument('--at_least', type=float, default=4.0, metavar='MIB', help='smaller rows are merged')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  return parser.parse_args()


def compiled(args, folder):
  """Returns the compiled step of a platform, whose compiler dumps its memory reports into the folder."""
  dumps = {'XLA_FLAGS': f'--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*update.*'}
  if args.topology.startswith('v'):
    dumps = {'LIBTPU_INIT_ARGS': f'--xla_jf_dump_to={folder} --xla_jf_dump_hlo_text=false --xla_jf_dump_llo_text=false '
                                 '--xla_jf_dump_llo_html=false'}
  for name, flags in dumps.items():
    os.environ[name] = f'{os.environ.get(name, "")} {flags}'.strip()
  sys.path.insert(0, str(ROOT))
  # The compilers read the flags when they are loaded.  pylint: disable=g-import-not-at-top, unused-import
  from trax_hourglass import registry
  from trax_hourglass.planning import step_program
  from trax_hourglass.planning import topologies
  from trax_hourglass.runtime import gin_config
  from trax_hourglass.training.settings import Settings
  topologies.prepare(args.topology, 1)
  gin_config.parse_gin(args.config_file or ['quickstart.gin'], args.config)
  return step_program.StepProgram(Settings.read(), topologies.mesh(args.topology, 1)).traced().lower().compile()


def listed(folder):
  """Yields (bytes, path of the operation) from XLA's own list of the peak."""
  file = max(pathlib.Path(folder).glob('*live-range.txt'), key=lambda file: file.stat().st_size)
  _, _, tree = file.read_text(encoding='utf-8').rpartition('Stack trace breakdown for peak usage')
  for line in tree.splitlines():
    if found := _LEAF.search(line):
      yield int(found[2].replace(' ', '')), found[1]


def alive_on_tpu(folder, text):
  """Yields (bytes, path of the operation) of the values alive at the peak, given the program as text."""
  operations = dict(_OPERATION.findall(text))
  file = max(pathlib.Path(folder).glob('*memory-space-assignment-bufferinfo.txt'), key=lambda file: file.stat().st_size)
  with open(file, encoding='utf-8', newline='') as rows:
    values = [(int(row['size']), row['buffer_name'].strip('<>').partition(' ')[2], int(row['definition_time']),
               max(map(int, row['use_times'].split(';')))) for row in csv.DictReader(rows)
              if row['is_scoped'] == '0' and row['use_times']]
  changes = collections.Counter()
  for size, _, made, used in values:
    changes[made] += size
    changes[used + 1] -= size
  peak, most, now = 0, 0, 0
  for time, change in sorted(changes.items()):
    now += change
    peak, most = (time, now) if now > most else (peak, most)
  for size, name, made, used in values:
    if made <= peak <= used:
      base = re.sub(r'\{[\d,]*\}$', '', name)
      yield size, base if base.startswith('weights_state') else operations.get(base, base)


def name_of(path):
  """Returns an operation's pass and path, without enclosing functions, tuple indices and numbers."""
  if path.startswith('weights_state_slots'):
    return 'weights, state, slots'
  of_pass = 'backward ' if 'transpose(' in path else 'forward ' if 'jvp(' in path else ''
  path = re.sub(r'\{\d+\}|\.\d+$|jit\(_update\)/|\b(transpose|jvp|jit)\(|[()]', '', path)
  path = re.sub(r'\b(closed_call|checkpoint|while|body)\b', '', path)
  return of_pass + '/'.join(filter(None, path.split('/')))


def main():
  """Prints the list."""
  args = parse_arguments()
  with tempfile.TemporaryDirectory() as folder:
    program = compiled(args, folder)
    found = alive_on_tpu(folder, program.as_text()) if args.topology.startswith('v') else listed(folder)
    sums = collections.Counter()
    for size, path in found:
      sums[name_of(path)] += size
  temporary = program.memory_analysis().temp_size_in_bytes
  rows = [(size, name) for name, size in sums.most_common() if size >= args.at_least * _MIB]
  rows.append((sum(sums.values()) - sum(size for size, _ in rows), 'smaller values'))
  if args.json:
    print(json.dumps({'topology': args.topology, 'temporary_bytes': temporary, 'alive': rows}))
    return
  print(f'{args.topology}: temporaries {temporary / _MIB:.0f} MiB; alive at the peak, MiB:')
  for size, name in rows:
    print(f'{size / _MIB:8.0f}  {name}')


if __name__ == '__main__':
  main()
