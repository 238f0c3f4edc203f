"""Measures one training step of our Hourglass, our flat baseline and Trax's Hourglass in Trax's trainer, side by side.

    python benchmarks/train_step.py [--json] [--hierarchy '2@1 4@3 2@1'] [--length 2046] [--compile_only] [--peak] ...
    python benchmarks/train_step.py --topology v5e [--json] ...       compiled for that platform, without the device

Steps alternate between the models (A B C A B C ...). Times are medians, and the spread is from fastest to slowest.
`temporary_bytes` are the compiler's own count for the compiled step. `step_flops` are the matrix products that a step
needs (flops.py), the same for Trax's model as for ours. `share_of_matmul_rate` compares their rate with that of a large
matrix product, measured in the same run. With --peak_flops, `mfu` compares their rate with the given one (an H200 has
788e12 in bfloat16). `peak_resident_bytes` (--peak) are those of a separate process that trains one model.
`peak_device_bytes` are those of its first device, if the device has its own memory. With `--topology` (see `plan`)
nothing runs: rows have compile time and bytes, and on TPUs estimated cycles.
"""

import argparse
import json
import subprocess
import sys

import subjects

from trax_hourglass.planning import topologies  # pylint: disable=wrong-import-position

COLUMNS = ('model', 'parameters', 'init_seconds', 'trace_seconds', 'compile_seconds', 'temporary_bytes',
           'argument_bytes', 'estimated_cycles', 'peak_resident_bytes', 'peak_device_bytes', 'step_seconds',
           'step_seconds_spread', 'tokens_per_second',
           'step_flops', 'flops_per_second', 'share_of_matmul_rate', 'mfu', 'last_loss')
RATIOS = {'step_seconds': 'step_time', 'temporary_bytes': 'temporary_bytes', 'compile_seconds': 'compile_seconds',
          'peak_resident_bytes': 'peak_resident_bytes', 'peak_device_bytes': 'peak_device_bytes'}


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                   allow_abbrev=False)  # `--pea` would reach the processes that measure the peak.
  subjects.add_flags(parser, d_model=512, d_ff=2048, n_heads=8)
  parser.add_argument('--length', type=int, default=2046, help='tokens; a multiple of the factors, for Trax\'s model')
  parser.add_argument('--steps', type=int, default=7, help='measured steps of each model')
  parser.add_argument('--peak_flops', type=float, metavar='RATE',
                      help='peak FLOP/s of the device, to report model FLOPs utilization')
  parser.add_argument('--compile_only', action='store_true', help='measure bytes and compile time only')
  parser.add_argument('--topology', help='compile for one device of this platform without running')
  parser.add_argument('--peak', action='store_true', help='also train each model in its own process '
                      'to measure its peak memory')
  args = parser.parse_args()
  if args.topology and args.peak:
    parser.error('--peak measures what runs: leave it out with --topology')
  return args


def measure(args):
  """Returns all results as one dictionary."""
  # First, while this process holds no device memory.
  peaks = {name: peaks_of_own_process(name) if args.peak else {} for name in args.models.split(',')}
  mesh = None
  if args.topology:
    topologies.prepare(args.topology, 1)
    mesh = topologies.mesh(args.topology, 1)
  rows = {name: subjects.Subject(name, args, args.length, mesh) for name in peaks}
  for subject in rows.values():
    print(f'compiling {subject.name} ...', file=sys.stderr)
    subject.compile()
  for number in range(0 if args.compile_only or args.topology else args.steps + 1):
    for subject in rows.values():
      subject.step(number)
      print(f'step {number} {subject.name}: {subject.seconds[-1]:.2f} s', file=sys.stderr)
  matmul_rate = None if args.topology else subjects.matmul_flops_per_second(args.dtype)
  for subject in rows.values():
    subject.summarise()

  results = {name: subject.result for name, subject in rows.items()}
  if {'ours', 'trax'} <= set(results):
    results['trax']['step_flops'] = results['ours']['step_flops']
  for name, result in results.items():
    if 'step_seconds' in result and 'step_flops' in result:
      result['flops_per_second'] = result['step_flops'] / result['step_seconds']
      result['share_of_matmul_rate'] = result['flops_per_second'] / matmul_rate
      if args.peak_flops:
        result['mfu'] = result['flops_per_second'] / args.peak_flops
    result.update(peaks[name])
  report = {**subjects.machine(), 'matmul_flops_per_second': matmul_rate,
            'settings': {key: value for key, value in vars(args).items() if key != 'json'}, 'models': results}
  if len(results) == 1:
    report.update(own_peaks())
  if {'ours', 'trax'} <= set(results):
    ours, theirs = results['ours'], results['trax']
    for key, name in RATIOS.items():
      if key in ours and key in theirs:
        report[f'{name}_ratio_trax_over_ours'] = theirs[key] / ours[key]
  return report


def own_peaks():
  """Returns the peak memory of this process, {column: bytes}."""
  peaks = {'peak_resident_bytes': subjects.peak_resident_bytes(), 'peak_device_bytes': subjects.peak_device_bytes()}
  return {column: n_bytes for column, n_bytes in peaks.items() if n_bytes is not None}


def peaks_of_own_process(name):
  """Returns `own_peaks` of a process that trains one model for two turns, with this command's settings."""
  print(f'peak of {name} ...', file=sys.stderr)
  flags = [flag for flag in sys.argv[1:] if flag not in ('--peak', '--json')]
  command = [sys.executable, __file__, *flags, '--models', name, '--steps', '1', '--json']
  report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
  return {column: report[column] for column in COLUMNS if column in report}


def table(report):
  """Returns the report as a markdown table, one row per model."""
  machine = {key: report[key] for key in (*subjects.machine(), 'settings')}
  rows = [{'model': name, **result} for name, result in report['models'].items()]
  ratios = [f'{key}: {value:.2f}' for key, value in report.items() if key.endswith('trax_over_ours')]
  rate = report['matmul_flops_per_second']
  return '\n'.join([str(machine), f'matrix products: {rate:.4g} FLOP/s' if rate else 'nothing was run', '',
                    subjects.markdown(rows, COLUMNS), '', *ratios])


if __name__ == '__main__':
  arguments = parse_arguments()
  result = measure(arguments)
  print(json.dumps(result) if arguments.json else table(result))
