"""Draws the plots of a comparison.

    cost.png         bits against operations per run (Figure 1), for rows with countable operations
    memory.png       bits against temporary memory per step on each device (Figure 6)
    step_time.png    bits against the time per step (Figure 7)
    curves.png       bits during training, without its first evaluation, against the unit of the budget
"""

from trax_hourglass.comparison import results as results_lib
from trax_hourglass.runtime import atomic_files

_STYLES = '-', '--', ':', '-.'  # Of the seeds of a row.
_MARKERS = {'flat': 'o', 'hierarchical': '^', 'Trax': 's'}
PLOTS = {  # File: field, divisor, label of the axis.
    'cost.png': ('run_flops', 1e12, 'training FLOPs (matrix products), TFLOP'),
    'memory.png': ('step_bytes', 1e6, 'temporary memory of a training step on each device, MB'),
    'step_time.png': ('seconds_per_step', 1, 'seconds per training step'),
}
_COSTS = {  # Budget: label of the axis, cost per step of a row.
    'steps': ('training steps', lambda row: 1),
    # Uses the measured step times that converted seconds to steps: rows were timed in rounds, but are trained at
    # different times, when the machine's speed may differ.
    'seconds': ('training time, s (from step times measured beforehand)', lambda row: row['planned_step_seconds']),
    'flops': ('training FLOPs (matrix products), TFLOP', lambda row: row['step_flops'] / 1e12),
}


def plot(folder, results):
  """Draws the plots of all finished rows that were trained."""
  from matplotlib import figure  # The import takes a second.  pylint: disable=g-import-not-at-top
  unit = results_lib.unit_of(results)
  rows = [result for result in results['rows'] if 'training_seconds' in result and not result['weights_of']]
  looks = {result['name']: {'color': f'C{i % 10}', 'marker': _MARKERS[result['kind']],
                            'fillstyle': 'full' if i < 10 else 'none'}
           for i, result in enumerate(rows)}

  def draw(file, x_label, y_label, draw_row):
    # Without pyplot, which would need a display or global state.
    canvas = figure.Figure(figsize=(7.6, 4.2), dpi=100, layout='constrained')
    axes = canvas.add_subplot(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    for result in rows:
      draw_row(axes, result, looks[result['name']])
    if not axes.has_data():
      return
    canvas.legend(loc='outside right upper', fontsize='small', frameon=False)
    with atomic_files.unfinished(folder / file) as path:
      canvas.savefig(path, format='png')

  for file, (field, divisor, label) in PLOTS.items():
    def point(axes, result, look, field=field, divisor=divisor):
      if field == 'run_flops' and result['flops_from'] != 'products':
        return  # An estimate, too low.
      axes.errorbar(result[field] / divisor, results_lib.bits_of(result), yerr=result['spread'], linestyle='',
                    capsize=3, markersize=8, label=result['name'], **look)
    draw(file, label, f'{results["split"]} bits per {unit}', point)

  budget, = results['budget']
  label, cost = _COSTS[budget]

  def lines(axes, result, look):
    for number, points in enumerate(result['curves'].values()):
      steps, bits = zip(*(points[1:] or points))  # The first is of an untrained model, far above all others.
      axes.plot([step * cost(result) for step in steps], bits, label=None if number else result['name'], linewidth=1.2,
                markersize=4, linestyle=_STYLES[number % len(_STYLES)], **look)
  draw('curves.png', label, f'bits per {unit} on a sample of valid', lines)
