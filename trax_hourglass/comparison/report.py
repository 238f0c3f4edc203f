"""Writes a comparison's results.json, table.md and table.csv, and the plots of plots.py.

The results are a dictionary of settings, machine and `rows`, a list of values of `results.summary`.
"""

import csv
import itertools
import json
import pathlib
import statistics

from trax_hourglass.comparison import plots
from trax_hourglass.comparison import results as results_lib
from trax_hourglass.runtime import atomic_files

FILES = ('results.json', 'table.md', 'table.csv', 'curves.png', *plots.PLOTS)
_UNEQUAL = 0.05  # Relative deviation of seconds from the budget above which a table reports it.


def write(folder, results):
  """Writes all files to a folder; plots only once a row has finished."""
  folder = pathlib.Path(folder)
  atomic_files.write(folder / 'results.json', json.dumps(results, indent=1))
  atomic_files.write(folder / 'table.md', f'{table(results)}\n')
  _write_csv(folder / 'table.csv', results)
  if any('training_seconds' in row for row in results['rows']):
    plots.plot(folder, results)


def table(results):
  """Returns the results as a markdown table, with verdicts on the paper's orderings and errors of failed rows."""
  unit = results_lib.unit_of(results)
  rows = []
  for result in results['rows']:
    cells = {'row': f'`{result["name"]}`' if '@' in result['name'] else result['name']}
    if 'training_seconds' in result:
      spread = '' if result['spread'] is None else f' ± {result["spread"]:.4f}'
      cells[f'bits per {unit}'] = f'{results_lib.bits_of(result):.4f}{spread}'
    for name, sign in (('paper', ''), ('gap', '+')):
      if name in result:
        cells[name] = f'{result[name]:{sign}.3f}'
    if 'step_bytes' in result:
      estimated = '' if result['flops_from'] == 'products' else ' (compiler)'
      cells.update({'parameters': result['n_parameters'],
                    'GFLOP per step': f'{_rounded(result["step_flops"] / 1e9)}{estimated}',
                    'MB per step': f'{result["step_bytes"] / 1e6:,.0f}', 'steps': result['n_steps'],
                    f'{unit}s seen': result['tokens']})
    if 'training_seconds' in result:
      cells.update({'steps/s': f'{result["steps_per_second"]:.3g}', 'seconds': f'{result["training_seconds"]:,.0f}'})
    if len(results['seeds']) > 1:
      cells['seeds'] = str(result['n_seeds'])
    if result['errors']:
      cells['failed'] = 'see below'
    rows.append(cells)
  columns = [
      'row', f'bits per {unit}', 'paper', 'gap', 'parameters', 'GFLOP per step', 'MB per step', 'steps',
      f'{unit}s seen', 'steps/s', 'seconds', 'seeds', 'failed'
  ]
  pairs = [{'better in the paper': pair['better'], 'than': pair['worse'], 'by': f'{pair["paper"]:.3f}',
            'here by': f'{pair["difference"]:+.4f} ± {pair["interval"]:.4f}', 'verdict': pair['verdict']}
           for pair in orderings(results)]
  failures = [f'{result["name"]}: {error}' for result in results['rows'] for error in result['errors']]
  compared = [markdown(pairs, list(pairs[0]))] if pairs else []
  return '\n\n'.join([markdown(rows, columns), *compared, *_unequal(results), *failures])


def orderings(results):
  """Returns for pairs of rows with different bits in the paper whether the results have the same order.

  With more than eight rows, only neighbours in the paper's order are compared. Rows with the same seed saw the same
  data, so mean and confidence interval (Student's t, 95 %) are those of the differences per seed.

  Returns:
    A list of {'better', 'worse': names, 'paper', 'difference': bits of the worse row minus those of the better row,
    'interval': half the width of the confidence interval, 'verdict': 'holds', 'reversed', or 'open' if the interval
    contains 0}.
  """
  found = []
  rows = sorted((row for row in results['rows'] if 'paper' in row and row['n_seeds'] > 1), key=lambda row: row['paper'])
  for better, worse in itertools.combinations(rows, 2) if len(rows) <= 8 else itertools.pairwise(rows):
    pair = paired(better, worse)
    if better['paper'] == worse['paper'] or pair is None:
      continue
    mean, interval = pair
    verdict = 'open' if abs(mean) <= interval else 'holds' if mean > 0 else 'reversed'
    found.append({'better': better['name'], 'worse': worse['name'], 'paper': worse['paper'] - better['paper'],
                  'difference': mean, 'interval': interval, 'verdict': verdict})
  return found


def paired(better, worse):
  """Returns the mean of the second row's bits minus the first row's per seed, and half of its 95 % interval.

  The interval is Student's t over the seeds of both rows. Returns None with fewer than two common seeds.
  """
  seeds = [seed for seed in better['bits_of_seeds'] if seed in worse['bits_of_seeds']]
  if len(seeds) < 2:
    return None
  differences = [worse['bits_of_seeds'][seed] - better['bits_of_seeds'][seed] for seed in seeds]
  from scipy import stats  # The import takes a second.  pylint: disable=g-import-not-at-top
  half = stats.t.ppf(0.975, len(seeds) - 1) * statistics.stdev(differences) / len(seeds)**0.5
  return statistics.fmean(differences), float(half)


def markdown(rows, columns):
  """Returns a markdown table of rows, which are dictionaries; omits columns that no row has."""
  columns = [column for column in columns if any(column in row for row in rows)]
  def cell(value):
    text = f'{value:,}' if isinstance(value, int) else f'{value:.4g}' if isinstance(value, float) else str(value or '')
    return text.replace('|', r'\|')  # Else a hierarchy with a set of factors would be two cells, even in backticks.
  lines = [f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
  return '\n'.join(lines + [f'| {" | ".join(cell(row.get(column)) for column in columns)} |' for row in rows])


def _unequal(results):
  """Returns a list with a sentence on runs whose seconds deviate from the budget, or an empty list."""
  budget = results['budget'].get('seconds')
  needed = {result['name']: result['n_steps'] * result['seconds_per_step'] for result in results['rows']
            if budget and 'training_seconds' in result}
  off = [
      f'{name} ({seconds / budget - 1:+.0%})' for name, seconds in needed.items()
      if abs(seconds / budget - 1) > _UNEQUAL
  ]
  return [f'Steps took other times than measured beforehand; at their median, seconds are not the {budget:,} of the '
          f'budget: {", ".join(off)}.'] if off else []


def _rounded(x):
  return f'{x:,.0f}' if x >= 100 else f'{x:.3g}'


def _write_csv(path, results):
  fields = [
      'name', 'kind', 'weights_of', f'bits_per_{results_lib.unit_of(results)}', 'spread', 'standard_error', 'n_seeds',
      'paper', 'gap', 'n_parameters', 'step_flops', 'flops_from', 'step_bytes', 'planned_step_seconds', 'n_steps',
      'tokens', 'run_flops', 'training_seconds', 'seconds_per_step', 'steps_per_second', 'errors'
  ]
  with atomic_files.unfinished(path) as other, open(other, 'w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, fields, extrasaction='ignore')
    writer.writeheader()
    writer.writerows({**result, 'errors': '; '.join(result['errors'])} for result in results['rows'])
