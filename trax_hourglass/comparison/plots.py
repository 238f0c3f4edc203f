"""The plots of a comparison.

    cost.png         bits against operations of a run (Figure 1), of rows whose operations can be counted
    memory.png       bits against temporary memory of a step on each device (Figure 6)
    step_time.png    bits against the time of a step (Figure 7)
    curves.png       bits in training but at its start, against steps, seconds or operations, whichever is the budget
"""

from trax_hourglass.comparison import results as results_lib
from trax_hourglass.runtime import atomic_files

_MARKERS = {'flat': 'o', 'hierarchical': '^', 'Trax': 's'}
PLOTS = {  # File: field, divisor, label of the axis.
    'cost.png': ('run_flops', 1e12, 'matrix products of a training run, TFLOP'),
    'memory.png': ('step_bytes', 1e6, 'temporary memory of a training step on each device, MB'),
    'step_time.png': ('seconds_per_step', 1, 'seconds a training step'),
}
_COSTS = {  # Budget: label of the axis, what a step of a row costs.
    'steps': ('training steps', lambda row: 1),
    # By the rate at which seconds became steps: rows were timed in turns, and are trained when the machine may be
    # another.
    'seconds': ('seconds of training, by step times measured beforehand', lambda row: row['planned_step_seconds']),
    'flops': ('matrix products of training, TFLOP', lambda row: row['step_flops'] / 1e12),
}


def plot(folder, results):
  """Draws the plots of rows that have finished, those that train nothing left out."""
  from matplotlib import figure  # Takes a second.  pylint: disable=g-import-not-at-top
  unit = results_lib.unit_of(results)
  rows = [result for result in results['rows'] if 'training_seconds' in result and not result['weights_of']]
  looks = {result['name']: {'color': f'C{i % 10}', 'marker': _MARKERS[result['kind']],
                            'fillstyle': 'full' if i < 10 else 'none'}
           for i, result in enumerate(rows)}

  def draw(file, x_label, y_label, draw_row):
    # Not pyplot: no display, no global state.
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
        return  # Too low.
      axes.errorbar(result[field] / divisor, results_lib.bits_of(result), yerr=result['spread'], linestyle='',
                    capsize=3, markersize=8, label=result['name'], **look)
    draw(file, label, f'{results["split"]} bits per {unit}', point)

  budget, = results['budget']
  label, cost = _COSTS[budget]

  def lines(axes, result, look):
    for number, points in enumerate(result['curves'].values()):
      steps, bits = zip(*(points[1:] or points))  # The first is that of an untrained model, far above all others.
      axes.plot([step * cost(result) for step in steps], bits, label=None if number else result['name'], linewidth=1.2,
                markersize=4, **look)
  draw('curves.png', label, f'bits per {unit} on a sample of valid', lines)
