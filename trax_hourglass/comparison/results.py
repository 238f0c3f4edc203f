"""Summarises a row of a comparison as plain values.

Bits are per byte, per dim of an image or per token, as given by `unit`, which is part of field names.
"""

import statistics


def summary(name, kind, weights_of, plan, runs, paper=None):
  """Returns a row of the results.

  Args:
    name: the row's name.
    kind: 'flat', 'hierarchical' or 'Trax'.
    weights_of: the row whose weights this row evaluates, or None.
    plan: contents of the row's row.json.
    runs: contents of the result.json of the row's finished and failed runs, with `seconds_per_step` added, the value
      of step_timer.py's `per_step` for the run.
    paper: bits reported in the paper, or None.

  Returns:
    A dictionary of plain values. Bits are the mean over finished seeds, and `spread` is their standard deviation, None
    for a single seed. `standard_error` is the evaluation's, as a mean over seeds. `training_seconds` is the mean time
    per step times the number of steps. `seconds_per_step` is the median, which other load on the machine hardly
    affects, and `planned_step_seconds` was measured before training.
  """
  finished = [run for run in runs if 'bits' in run]
  result = {'name': name, 'kind': kind, 'weights_of': weights_of, 'n_seeds': len(finished),
            'errors': sorted({run['error'] for run in runs if 'error' in run})}
  if 'measurement' in plan:
    measured = dict(plan['measurement'])
    planned = measured.pop('step_seconds')
    result.update(unit=plan['unit'], **measured, planned_step_seconds=planned, machine=plan['machine'],
                  n_steps=plan['n_steps'], tokens=plan['tokens'], run_flops=measured['step_flops'] * plan['n_steps'])
  if finished:
    bits = [run['bits'] for run in finished]
    errors = [run['standard_error'] for run in finished if run['standard_error'] is not None]
    mean, median = (statistics.fmean(seconds) or planned  # A run of one step has no timed step.
                    for seconds in zip(*(run['seconds_per_step'] for run in finished)))
    result.update(
        {f'bits_per_{result["unit"]}': statistics.fmean(bits)},
        bits_of_seeds={run['seed']: run['bits'] for run in finished},
        spread=statistics.stdev(bits) if len(bits) > 1 else None,
        standard_error=statistics.fmean(errors) if errors else None,
        training_seconds=mean * result['n_steps'], seconds_per_step=median, steps_per_second=1 / median,
        curves={run['seed']: run['curve'] for run in finished})
    if paper is not None:
      result['gap'] = statistics.fmean(bits) - paper
  if paper is not None:
    result['paper'] = paper
  return result


def unit_of(results):
  return next((result['unit'] for result in results['rows'] if 'unit' in result), 'token')


def bits_of(result):
  return result[f'bits_per_{result["unit"]}']
