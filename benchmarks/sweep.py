"""Merges comparisons at equal FLOPs into one table and one plot: bits against FLOPs, and against tokens seen.

    python benchmarks/sweep.py docs/results/enwik8_sweep_*.json --against "6@1, window" --plot FILE.png

Rows of the same name and budget become one row with all their seeds. Differences are paired by seed, with a 95 %
interval. A second table has the lead of hierarchies over flat models at equal FLOPs, also where budgets differ. It
takes the best row of each kind among all files, whatever `--against` says, and means over all seeds of a row.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from matplotlib import figure
from matplotlib import ticker
import numpy as np
from scipy import stats

from trax_hourglass.comparison import report
from trax_hourglass.comparison import results as results_lib

_LOOKS = {'flat': ('C0', 'o'), 'hierarchical': ('C1', '^'), 'Trax': ('C2', 's')}


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('results', nargs='+', type=pathlib.Path, help='results.json files of comparisons; any file name')
  parser.add_argument('--against', metavar='ROW', help='baseline row of the first table')
  parser.add_argument('--plot', type=pathlib.Path, metavar='FILE.png', help='file for the plot')
  return parser.parse_args()


def merged(results):
  """Returns the finished rows of several results, merged by name and budget, best first at each budget.

  Raises:
    ValueError: results were scored in different ways; or a row has two costs of a step, or two results of a seed.
  """
  rows, scored = {}, {}
  for result in results:
    for row in result['rows']:
      if 'bits_of_seeds' in row and not row['weights_of']:
        scored[row['unit'], result['split'], result['protocol'], result['max_tokens']] = None
        found = rows.setdefault((result['budget']['flops'], row['name']), {**row, 'bits_of_seeds': {}})
        if found['step_flops'] != row['step_flops']:
          raise ValueError(f'{row["name"]!r} has {found["step_flops"]} and {row["step_flops"]} FLOPs per step')
        if twice := found['bits_of_seeds'].keys() & row['bits_of_seeds'].keys():
          raise ValueError(f'{row["name"]!r} has two results of seed {", ".join(sorted(twice))}')
        found['bits_of_seeds'].update(row['bits_of_seeds'])
  if len(scored) > 1:
    raise ValueError(f'unit, split, protocol and max_tokens are {" and ".join(map(str, scored))}; expected one of each')
  for (budget, _), row in rows.items():
    row.update({'budget': budget, f'bits_per_{row["unit"]}': statistics.fmean(row['bits_of_seeds'].values())})
  return sorted(rows.values(), key=lambda row: (-row['budget'], results_lib.bits_of(row)))


def table(rows, against):
  """Returns the rows as a markdown table; `ahead` is a row's gain in bits over `against` at the same budget."""
  of_budget = {row['budget']: row for row in rows if row['name'] == against}
  cells = []
  for row in rows:
    bits = row['bits_of_seeds'].values()
    spread = f' ± {statistics.stdev(bits):.4f}' if len(bits) > 1 else ''
    cells.append({'FLOPs': f'{row["budget"]:.3g}', 'row': f'`{row["name"]}`', 'seeds': len(bits),
                  f'bits per {row["unit"]}': f'{results_lib.bits_of(row):.4f}{spread}',
                  'parameters': row['n_parameters'], f'{row["unit"]}s seen': row['tokens']})
    other = of_budget.get(row['budget'])
    if other and other is not row:
      common = row['bits_of_seeds'].keys() & other['bits_of_seeds'].keys()
      if len(common) == 1:
        seed, = common
        cells[-1]['ahead'] = f'{other["bits_of_seeds"][seed] - row["bits_of_seeds"][seed]:+.4f}'
      elif common:
        cells[-1]['ahead'] = '{:+.4f} ± {:.4f}'.format(*report.paired(row, other))
  return report.markdown(cells, list({name: None for cell in cells for name in cell}))


def _best(rows, kind):
  """Returns {budget: row} of the best row of a kind at each budget, the smallest budget first."""
  best = {row['budget']: row for row in reversed(rows) if row['kind'] == kind}  # Rows are sorted best first.
  return dict(sorted(best.items()))


def leads(rows):
  """Returns the lead of the best hierarchy at each budget over the best flat model, as a table and a sentence, or ''.

  Bits of the flat model are interpolated along the logarithm of its FLOPs. The sentence has the slope of a straight
  line through the leads, with a 95 % interval by Student's t.
  """
  flat = {math.log2(budget): results_lib.bits_of(row) for budget, row in _best(rows, 'flat').items()}
  points = {budget: row for budget, row in _best(rows, 'hierarchical').items()
            if flat and min(flat) <= math.log2(budget) <= max(flat)}
  if not points:
    return ''
  logs = [math.log2(budget) for budget in points]
  found = np.interp(logs, list(flat), list(flat.values())) - [results_lib.bits_of(row) for row in points.values()]
  cells = [{'FLOPs': f'{budget:.3g}', 'best hierarchy': f'`{row["name"]}`', 'seeds': len(row['bits_of_seeds']),
            'lead': f'{lead:+.4f}'} for (budget, row), lead in zip(points.items(), found)]
  said = report.markdown(cells, list(cells[0]))
  if len(points) > 2:
    line = stats.linregress(logs, found)
    half = stats.t.ppf(0.975, len(points) - 2) * line.stderr
    said += f'\n\nThe lead changes by {line.slope:+.4f} ± {half:.4f} bits with each doubling of FLOPs.'
  return said


def plot(rows, path):
  """Draws bits against FLOPs and tokens seen, with a point per seed and a line along the best row of each kind."""
  canvas = figure.Figure(figsize=(10, 4.2), dpi=100, layout='constrained')
  unit = rows[0]['unit']
  fields = {'training FLOPs (matrix products), TFLOP': ('budget', 1e12),
            f'{unit}s seen in training, millions': ('tokens', 1e6)}
  for axes, (label, (field, divisor)) in zip(canvas.subplots(1, 2, sharey=True), fields.items()):
    for kind, (color, marker) in _LOOKS.items():
      of_kind = [row for row in rows if row['kind'] == kind]
      for row in of_kind:
        points = row['bits_of_seeds'].values()
        axes.plot([row[field] / divisor] * len(points), points, color=color, marker=marker, linestyle='',
                  fillstyle='none')
      best = _best(rows, kind)
      if best:
        line = [(row[field] / divisor, results_lib.bits_of(row)) for row in best.values()]
        axes.plot(*zip(*line), color=color, marker=marker, label=f'{kind}: mean of the best row at each budget')
    axes.set(xlabel=label, xscale='log')
    axes.grid(alpha=.3, which='both')
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter('{x:g}')
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  canvas.legend(*axes.get_legend_handles_labels(), frameon=False, loc='outside lower center', ncols=2,
                title='open markers: each row and seed')
  canvas.axes[0].set(ylabel=f'bits per {unit} of the valid split')
  canvas.savefig(path)


def main():
  """Prints the table and draws the plot."""
  args = parse_arguments()
  rows = merged([json.loads(path.read_text(encoding='utf-8')) for path in args.results])
  names = list(dict.fromkeys(row['name'] for row in rows))
  if args.against is not None and args.against not in names:
    raise ValueError(f'--against is {args.against!r}; expected one of {", ".join(map(repr, names))}')
  print(table(rows, args.against))
  if said := leads(rows):
    print(f'\n{said}')
  if args.plot:
    plot(rows, args.plot)


if __name__ == '__main__':
  main()
