"""What a comparison came to: results.json, table.md, table.csv, and the plots of the paper.

    cost.png         bits against operations of a run (Figure 1), of rows whose operations can be counted
    memory.png       bits against temporary memory of a step on each device (Figure 6)
    step_time.png    bits against the time of a step (Figure 7)
    curves.png       bits in training but at its start, against steps, seconds or operations, whichever is the budget

The results are a dictionary: settings and machine, and `rows`, a list of what `row` returns. Bits are per byte, per dim of
an image or per token: `unit` says which, and fields have it in their names.
"""

import csv
import itertools
import json
import pathlib
import statistics

from scipy import stats

from trax_hourglass.comparison.planning import UNEQUAL
from trax_hourglass.runtime import atomic_files

_MARKERS = {'flat': 'o', 'hierarchical': '^', 'Trax': 's'}
_PLOTS = {  # File: field, divisor, label of the axis.
    'cost.png': ('run_flops', 1e12, 'matrix products of a training run, TFLOP'),
    'memory.png': ('step_bytes', 1e6, 'temporary memory of a training step on each device, MB'),
    'step_time.png': ('seconds_per_step', 1, 'seconds a training step'),
}
FILES = ('results.json', 'table.md', 'table.csv', 'curves.png', *_PLOTS)
_COSTS = {  # Budget: label of the axis, what a step of a row costs.
    'steps': ('training steps', lambda row: 1),
    # By the rate at which seconds became steps: rows were timed in turns, and are trained when the machine may be another.
    'seconds': ('seconds of training, by step times measured beforehand', lambda row: row['planned_step_seconds']),
    'flops': ('matrix products of training, TFLOP', lambda row: row['step_flops'] / 1e12),
}


def row(name, kind, weights_of, plan, runs, paper=None):
  """Returns a row of the results.

  Args:
    name: the row's name.
    kind: 'flat', 'hierarchical' or 'Trax'.
    weights_of: the row whose weights it evaluates, or None.
    plan: what its row.json holds.
    runs: what the result.json of its runs hold, finished or failed, with `seconds_per_step`, what step_timer.py's `per_step`
      says of the run.
    paper: bits that the paper prints, or None.

  Returns:
    A dictionary of plain values. Bits are the mean over the seeds that have finished, `spread` their standard deviation,
    None for a single one; `standard_error` is that of the evaluation, the mean over seeds. `training_seconds` were spent on
    all steps, `seconds_per_step` is the median, which other work on the machine hardly touches, and `planned_step_seconds`
    was measured beforehand.
  """
  finished = [run for run in runs if 'bits' in run]
  result = {'name': name, 'kind': kind, 'weights_of': weights_of, 'n_seeds': len(finished),
            'errors': sorted({run['error'] for run in runs if 'error' in run})}
  if 'measurement' in plan:
    measured = dict(plan['measurement'])
    planned = measured.pop('step_seconds')
    result.update(unit=plan['unit'], **measured, planned_step_seconds=planned, machine=plan['machine'], n_steps=plan['n_steps'],
                  tokens=plan['tokens'], run_flops=measured['step_flops'] * plan['n_steps'])
  if finished:
    bits = [run['bits'] for run in finished]
    errors = [run['standard_error'] for run in finished if run['standard_error'] is not None]
    mean, median = (statistics.fmean(seconds) or planned  # A run of one step has no step that was timed.
                    for seconds in zip(*(run['seconds_per_step'] for run in finished)))
    result.update(
        {f'bits_per_{result["unit"]}': statistics.fmean(bits)}, bits_of_seeds={run['seed']: run['bits'] for run in finished},
        spread=statistics.stdev(bits) if len(bits) > 1 else None,
        standard_error=statistics.fmean(errors) if errors else None,
        training_seconds=mean * result['n_steps'], seconds_per_step=median, steps_per_second=1 / median,
        curves={run['seed']: run['curve'] for run in finished})
    if paper is not None:
      result['gap'] = statistics.fmean(bits) - paper
  if paper is not None:
    result['paper'] = paper
  return result


def write(folder, results):
  """Writes everything into a folder; plots as soon as a row has finished."""
  folder = pathlib.Path(folder)
  atomic_files.write(folder / 'results.json', json.dumps(results, indent=1))
  atomic_files.write(folder / 'table.md', f'{table(results)}\n')
  _write_csv(folder / 'table.csv', results)
  if any('training_seconds' in row for row in results['rows']):
    plot(folder, results)


def table(results):
  """Returns the results as a markdown table; below it, which orderings of the paper hold, and the errors of what failed."""
  unit = _unit(results)
  rows = []
  for result in results['rows']:
    cells = {'row': f'`{result["name"]}`' if '@' in result['name'] else result['name']}
    if 'training_seconds' in result:
      spread = '' if result['spread'] is None else f' ± {result["spread"]:.4f}'
      cells[f'bits per {unit}'] = f'{_bits(result):.4f}{spread}'
    for name, sign in (('paper', ''), ('gap', '+')):
      if name in result:
        cells[name] = f'{result[name]:{sign}.3f}'
    if 'step_bytes' in result:
      estimated = '' if result['flops_from'] == 'products' else ' (compiler)'
      cells.update({'parameters': result['n_parameters'],
                    'GFLOP a step': f'{_rounded(result["step_flops"] / 1e9)}{estimated}',
                    'MB a step': f'{result["step_bytes"] / 1e6:,.0f}', 'steps': result['n_steps'],
                    f'{unit}s seen': result['tokens']})
    if 'training_seconds' in result:
      cells.update({'steps/s': f'{result["steps_per_second"]:.3g}', 'seconds': f'{result["training_seconds"]:,.0f}'})
    if len(results['seeds']) > 1:
      cells['seeds'] = str(result['n_seeds'])
    if result['errors']:
      cells['failed'] = 'see below'
    rows.append(cells)
  columns = ['row', f'bits per {unit}', 'paper', 'gap', 'parameters', 'GFLOP a step', 'MB a step', 'steps', f'{unit}s seen',
             'steps/s', 'seconds', 'seeds', 'failed']
  pairs = [{'better in the paper': pair['better'], 'than': pair['worse'], 'by': f'{pair["paper"]:.3f}',
            'here by': f'{pair["difference"]:+.4f} ± {pair["interval"]:.4f}', 'verdict': pair['verdict']}
           for pair in orderings(results)]
  failures = [f'{result["name"]}: {error}' for result in results['rows'] for error in result['errors']]
  compared = [markdown(pairs, list(pairs[0]))] if pairs else []
  return '\n\n'.join([markdown(rows, columns), *compared, *_unequal(results), *failures])


def orderings(results):
  """Returns, of each two rows that the paper tells apart, whether they come out in its order.

  Of more than eight rows only those next to each other in the paper's order are told, each two would be too many.
  Rows with the same seed saw the same data, so it is the differences within a seed whose mean and confidence interval
  (Student's, 95 %) are told.

  Returns:
    A list of {'better', 'worse': names, 'paper', 'difference': bits that the one has more than the other, 'interval':
    half its width, 'verdict': 'holds', 'reversed', or 'open' where the interval has 0 in it}.
  """
  found = []
  rows = sorted((row for row in results['rows'] if 'paper' in row and row['n_seeds'] > 1), key=lambda row: row['paper'])
  for better, worse in itertools.combinations(rows, 2) if len(rows) <= 8 else itertools.pairwise(rows):
    seeds = [seed for seed in better['bits_of_seeds'] if seed in worse['bits_of_seeds']]
    if better['paper'] == worse['paper'] or len(seeds) < 2:
      continue
    differences = [worse['bits_of_seeds'][seed] - better['bits_of_seeds'][seed] for seed in seeds]
    mean = statistics.fmean(differences)
    interval = stats.t.ppf(0.975, len(seeds) - 1) * statistics.stdev(differences) / len(seeds)**0.5
    verdict = 'open' if abs(mean) <= interval else 'holds' if mean > 0 else 'reversed'
    found.append({'better': better['name'], 'worse': worse['name'], 'paper': worse['paper'] - better['paper'],
                  'difference': mean, 'interval': float(interval), 'verdict': verdict})
  return found


def markdown(rows, columns):
  """Returns a markdown table, one row a dictionary; columns that no row has are left out."""
  columns = [column for column in columns if any(column in row for row in rows)]
  def cell(value):
    text = f'{value:,}' if isinstance(value, int) else f'{value:.4g}' if isinstance(value, float) else str(value or '')
    return text.replace('|', r'\|')  # Else a hierarchy with a set of factors would be two cells, within backticks too.
  lines = [f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
  return '\n'.join(lines + [f'| {" | ".join(cell(row.get(column)) for column in columns)} |' for row in rows])


def plot(folder, results):
  """Draws the plots of rows that have finished, those that train nothing left out."""
  from matplotlib import figure  # Takes a second.  pylint: disable=g-import-not-at-top
  unit = _unit(results)
  rows = [result for result in results['rows'] if 'training_seconds' in result and not result['weights_of']]
  looks = {result['name']: {'color': f'C{i % 10}', 'marker': _MARKERS[result['kind']],
                            'fillstyle': 'full' if i < 10 else 'none'}
           for i, result in enumerate(rows)}

  def draw(file, x_label, y_label, draw_row):
    canvas = figure.Figure(figsize=(7.6, 4.2), dpi=100, layout='constrained')  # Not pyplot: no display, no global state.
    axes = canvas.add_subplot(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    for result in rows:
      draw_row(axes, result, looks[result['name']])
    if not axes.has_data():
      return
    canvas.legend(loc='outside right upper', fontsize='small', frameon=False)
    with atomic_files.unfinished(folder / file) as path:
      canvas.savefig(path, format='png')

  for file, (field, divisor, label) in _PLOTS.items():
    def point(axes, result, look, field=field, divisor=divisor):
      if field == 'run_flops' and result['flops_from'] != 'products':
        return  # Too low.
      axes.errorbar(result[field] / divisor, _bits(result), yerr=result['spread'], linestyle='', capsize=3, markersize=8,
                    label=result['name'], **look)
    draw(file, label, f'{results["split"]} bits per {unit}', point)

  budget, = results['budget']
  label, cost = _COSTS[budget]

  def lines(axes, result, look):
    for number, points in enumerate(result['curves'].values()):
      steps, bits = zip(*(points[1:] or points))  # The first is that of an untrained model, far above all others.
      axes.plot([step * cost(result) for step in steps], bits, label=None if number else result['name'], linewidth=1.2,
                markersize=4, **look)
  draw('curves.png', label, f'bits per {unit} on the first batches of valid', lines)


def _unequal(results):
  """Returns a sentence on runs whose seconds miss the budget, in a list; empty if there are none."""
  budget = results['budget'].get('seconds')
  needed = {result['name']: result['n_steps'] * result['seconds_per_step'] for result in results['rows']
            if budget and 'training_seconds' in result}
  off = [f'{name} ({seconds / budget - 1:+.0%})' for name, seconds in needed.items() if abs(seconds / budget - 1) > UNEQUAL]
  return [f'Steps took other times than measured beforehand; at their median, seconds are not the {budget:,} of the budget: '
          f'{", ".join(off)}.'] if off else []


def _rounded(x):
  return f'{x:,.0f}' if x >= 100 else f'{x:.3g}'


def _unit(results):
  return next((result['unit'] for result in results['rows'] if 'unit' in result), 'token')


def _bits(result):
  return result[f'bits_per_{result["unit"]}']


def _write_csv(path, results):
  fields = ['name', 'kind', 'weights_of', f'bits_per_{_unit(results)}', 'spread', 'standard_error', 'n_seeds', 'paper',
            'gap', 'n_parameters', 'step_flops', 'flops_from', 'step_bytes', 'planned_step_seconds', 'n_steps',
            'tokens', 'run_flops', 'training_seconds', 'seconds_per_step', 'steps_per_second', 'errors']
  with atomic_files.unfinished(path) as other, open(other, 'w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, fields, extrasaction='ignore')
    writer.writeheader()
    writer.writerows({**result, 'errors': '; '.join(result['errors'])} for result in results['rows'])
