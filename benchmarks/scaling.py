"""Measures a training step's time and memory by sequence length: ours, our flat baseline's, and Trax's until it fails.

    python benchmarks/scaling.py [--json] [--lengths 512,1024,2048,4096,8192,16384] [--plot scaling.png] ...

A step has one sequence by default. Lengths are rounded down to a multiple of the deepest factor, for Trax's model. A
model is left out once its temporaries, by the compiler's count, exceed `--max_bytes`. A model is also left out once its
step would exceed `--max_seconds`, extrapolated from the previous length by quadratic growth.
"""

import argparse
import json
import sys

import subjects

COLUMNS = ('model', 'length', 'step_seconds', 'microseconds_per_token', 'temporary_bytes', 'bytes_per_token',
           'step_flops', 'left_out')


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  subjects.add_flags(parser, d_model=256, d_ff=1024, n_heads=4)
  parser.add_argument('--lengths', default='512,1024,2048,4096,8192,16384',
                      help='sequence lengths in tokens, ascending, comma-separated')
  parser.add_argument('--steps', type=int, default=2, help='measured steps of each model and length')
  parser.add_argument('--max_bytes', type=float, default=12e9)
  parser.add_argument('--max_seconds', type=float, default=60.0)
  parser.add_argument('--plot', metavar='F.png', help='also draw time and memory against length')
  return parser.parse_args()


def measure(args):
  """Returns one dictionary per model and length."""
  factor = subjects.hierarchy_lib.parse(args.hierarchy)[-1].total_factor
  rows, reasons = [], {}
  seconds = {}
  for length in (int(length) // factor * factor for length in args.lengths.split(',')):
    running = []
    for name in args.models.split(','):
      row = {'model': name, 'length': length}
      rows.append(row)
      previous_length, previous = seconds.get(name, (length, 0.0))
      expected = previous * (length / previous_length)**2
      if name not in reasons and expected > args.max_seconds:
        reasons[name] = f'would take about {expected:.0f} s'
      if name not in reasons:
        print(f'compiling {name} at {length} ...', file=sys.stderr)
        subject = subjects.Subject(name, args, length)
        try:
          subject.compile()
        except Exception as error:  # The other models continue.  pylint: disable=broad-except
          reasons[name] = f'does not compile: {" ".join(str(error).split())[:80]}'
        else:
          row.update(subject.result)
          row['bytes_per_token'] = row['temporary_bytes'] / length
          if row['temporary_bytes'] > args.max_bytes:
            reasons[name] = 'memory'
          else:
            running.append((subject, row))
      if name in reasons:
        row['left_out'] = reasons[name]
    for number in range(args.steps + 1):
      for subject, row in list(running):
        try:
          subject.step(number)
        except Exception as error:  # Probably out of memory; other models continue.  pylint: disable=broad-except
          row['left_out'] = reasons[subject.name] = f'does not run: {" ".join(str(error).split())[:80]}'
          running.remove((subject, row))
    for subject, row in running:
      subject.summarise()
      row.update(subject.result)
      row['microseconds_per_token'] = 1e6 * row['step_seconds'] / length
      seconds[subject.name] = length, row['step_seconds']
      print(f'{subject.name} at {length}: {row["step_seconds"]:.2f} s', file=sys.stderr)
  return rows


def plot(rows, path):
  """Draws seconds and temporary bytes per step against length, with logarithmic axes."""
  import matplotlib  # pylint: disable=g-import-not-at-top
  matplotlib.use('Agg')
  from matplotlib import pyplot  # pylint: disable=g-import-not-at-top
  figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
  labels = {'step_seconds': 'seconds per step', 'temporary_bytes': 'temporary bytes per step'}
  for axis, (key, label) in zip(axes, labels.items()):
    for name in dict.fromkeys(row['model'] for row in rows):
      points = [(row['length'], row[key]) for row in rows if row['model'] == name and key in row]
      axis.plot(*zip(*points), marker='o', label=name)
    axis.set(xscale='log', yscale='log', xlabel='length (tokens)', ylabel=label)
    axis.set_xscale('log', base=2)
    axis.grid(alpha=0.3)
  axes[0].legend()
  figure.savefig(path, dpi=110)


def main():
  """Prints the results."""
  args = parse_arguments()
  rows = measure(args)
  report = {
      **subjects.machine(), 'settings': {key: value for key, value in vars(args).items() if key != 'json'}, 'rows': rows
  }
  if args.plot:
    plot(rows, args.plot)
  if args.json:
    print(json.dumps(report))
    return
  print({key: value for key, value in report.items() if key != 'rows'}, '', subjects.markdown(rows, COLUMNS), sep='\n')


if __name__ == '__main__':
  main()
