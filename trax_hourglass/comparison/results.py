"""Summarises a row of a comparison as plain values.

Bits are per byte, per dim of an image or per token: `unit` says which, and fields have it in their names.
"""

import statistics


def summary(name, kind, weights_of, plan, runs, paper=None):
  """Returns a row of the results.

  Args:
    name: the row's name.
    kind: 'flat', 'hierarchical' or 'Trax'.
    weights_of: the row whose weights it evaluates, or None.
    plan: what its row.json holds.
    runs: what the result.json of its runs hold, finished or failed, with `seconds_per_step`, what step_timer.py's
      `per_step` says of the run.
    paper: bits that the paper prints, or None.

  Returns:
    A dictionary of plain values. Bits are the mean over the seeds that have finished, `spread` their standard
    deviation, None for a single one; `standard_error` is that of the evaluation, the mean over seeds.
    `training_seconds` were spent on all steps, `seconds_per_step` is the median, which other work on the machine hardly
    touches, and `planned_step_seconds` was measured beforehand.
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
    mean, median = (statistics.fmean(seconds) or planned  # A run of one step has no step that was timed.
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
