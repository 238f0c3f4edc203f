"""Runs the paper's comparisons: models on the same data, batches, schedule and evaluation, under an equal budget.

A comparison is a gin configuration of one run, and rows, each of which changes some settings. The step of each row is
measured first, which determines the row's number of steps. Each row is then trained once per seed in a separate run
directory. The folder of a comparison:

    comparison.gin              its configuration
    ROW/row.json                the row's settings and the measurement of its step
    ROW/seed_N/                 the run directory, with result.json once finished or failed
    results.json and more       the report of report.py

Finished runs are not repeated. Interrupted runs resume from their last checkpoint, and failed runs are retried.
"""

import contextlib
import functools
import gc
import os
import pathlib

import gin

from trax_hourglass.comparison import budget as budget_lib
from trax_hourglass.comparison import records
from trax_hourglass.comparison import report
from trax_hourglass.comparison import results as results_lib
from trax_hourglass.comparison import rows as rows_lib
from trax_hourglass.comparison import step_cost
from trax_hourglass.comparison import step_timer
from trax_hourglass.runtime import atomic_files
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import checks
from trax_hourglass.runtime import folder_lock
from trax_hourglass.runtime.progress import say
from trax_hourglass.training import evaluate_run
from trax_hourglass.training import run_directory

CONFIG, _LOCK = 'comparison.gin', 'compare.lock'


def compare(output_dir,
            rows=None,
            only=None,
            own_rows=None,
            also_evaluate=None,
            steps=None,
            seconds=None,
            flops=None,
            seeds=(0,),
            warmup=None,
            n_evaluations=20,
            measured_steps=10,
            split='valid',
            protocol=None,
            max_tokens=None,
            paper=None):
  """Trains and evaluates all rows, or resumes a comparison, and writes tables and plots to `output_dir`.

  gin holds the configuration shared by all rows, with a macro `n_steps` as in gin/base.gin. The final evaluation may
  change when a comparison is resumed: finished runs are then scored again, not trained.

  Args:
    output_dir: the comparison's folder.
    rows: {name: gin lines}, a string or a list of them, such as "Hourglass.hierarchy = '8@1'" or "include 'FILE.gin'".
    only: names of the rows to run, such as some rows of an included file or of own_rows; None for all.
    own_rows: additional rows, in the form of `rows`.
    also_evaluate: {name: (row, gin lines)}, rows that evaluate another row's weights with other lines, without
      training.
    steps: the budget of each run as a number of steps. Exactly one of steps, seconds and flops must be given.
    seconds: the budget as seconds of training, converted to steps by the measured time per step.
    flops: the budget as floating-point operations.
    seeds: seeds of weights, dropout and windows; each row is trained with every seed.
    warmup: share of a row's steps in which the learning rate rises, bound to the macro `warmup_steps`; None leaves the
      macro alone.
    n_evaluations: number of points of each learning curve, and of checkpoints of each run.
    measured_steps: number of timed steps.
    split: the split to score at the end.
    protocol: protocol of the final evaluation, see scoring.py; None for windows as long as in training.
    max_tokens: number of tokens of the split to score; None for all.
    paper: {row: bits reported in the paper}.

  Returns:
    The results, see report.py.

  Raises:
    InputError: no rows, invalid rows or settings, no budget or more than one, or an output_dir with other results.
      Errors during measurement or training become part of the row's result instead.
  """
  arguments = {name: value for name, value in locals().items() if name != 'output_dir'}
  budget = budget_lib.Budget.of(steps=steps, seconds=seconds, flops=flops)
  _check_numbers(seeds, warmup, n_evaluations, measured_steps, max_tokens)
  rows, own_rows = rows_lib.check_rows(rows, 'rows'), rows_lib.check_rows(own_rows or {}, 'own_rows')
  for name in own_rows.keys() & rows.keys():
    raise InputError(f'compare.own_rows has {name!r}, as compare.rows has: give it another name')
  rows, also_evaluate, paper = rows_lib.chosen(only, {**rows, **own_rows}, also_evaluate or {}, paper or {})
  folder = pathlib.Path(output_dir).expanduser()
  configuration = rows_lib.Configuration(budget, warmup, n_evaluations)
  try:
    rows = configuration.rows(rows, also_evaluate, folder, split, protocol)
    _check_paper(paper, rows)
    comparison = Comparison(folder, configuration, rows, budget, measured_steps,
                            {'split': split, 'protocol': protocol, 'max_tokens': max_tokens}, paper)
    with comparison.begun(arguments):
      return comparison.run(seeds)
  finally:
    configuration.configure_as_before()


class Comparison:
  """Runs a comparison in its folder."""

  def __init__(self, folder, configuration, rows, budget, measured_steps, scored, paper):
    """Creates the comparison from checked arguments of `compare`."""
    self.folder, self.rows = folder, rows
    self._configuration, self._budget, self._measured_steps = configuration, budget, measured_steps
    self._scored, self._paper = scored, paper

  @contextlib.contextmanager
  def begun(self, arguments):
    """Creates the folder, or checks that its contents belong to this comparison, and locks it.

    Args:
      arguments: arguments of `compare` by name, to be saved; gin itself would sort the rows.

    Raises:
      InputError: the folder has other contents, or another process runs a comparison there.
    """
    if self.folder.exists() and not self.folder.is_dir():
      raise InputError(f'output_dir {str(self.folder)!r} is a file: give a folder')
    others = [path for path in self.folder.glob('*') if path.name != _LOCK]
    if others and not (self.folder / CONFIG).exists():
      raise InputError(f'output_dir {str(self.folder)!r} holds files that are not of a comparison: give another folder')
    for row in self.rows:
      before = records.read(row.directory / records.PLAN)
      if 'measurement' in before and before['settings'] != row.settings:
        there, here = (text.splitlines() for text in (before['settings'], row.settings))
        was, is_ = (next((line.strip() for line in one if line not in other), '(nothing)')
                    for one, other in ((there, here), (here, there)))
        raise InputError(f'{row.directory} holds results of other settings, {was!r} where there is {is_!r} now: give '
                         'another --output_dir')
    trained = [path.parent for path in self.folder.glob(f'*/{records.PLAN}') if 'measurement' in records.read(path)]
    others = sorted(directory.name for directory in trained if directory not in [row.directory for row in self.rows])
    if others:
      raise InputError(f'output_dir {str(self.folder)!r} holds rows that this comparison does not have, '
                       f'{", ".join(others)}: give another folder, name them too, or delete theirs')
    lock = folder_lock.take(self.folder, _LOCK, 'compares')
    kept = '\n'.join(f'compare.{name} = {_as_gin(value)}' for name, value in arguments.items())
    atomic_files.write(self.folder / CONFIG, '\n'.join([*self._configuration.common, kept, '']))
    try:
      yield
    finally:
      os.close(lock)

  def run(self, seeds):
    """Measures all rows, trains and evaluates them, and writes the report after each."""
    budget_lib.Planner(self._configuration, self._budget, self._measured_steps, self._scored).plan(
        [row for row in self.rows if row.weights_of is None])
    todo = [(row, seed, row.directory / f'seed_{seed}') for seed in seeds for row in self.rows]
    todo = [(row, seed, directory) for row, seed, directory in todo if not self._is_finished(row, directory)]
    # Failed runs come last, since they may have crashed the whole process.
    todo.sort(
        key=lambda one: 'error' in records.read(self._source(one[0]).directory / f'seed_{one[1]}' / records.RESULT))
    for number, (row, seed, directory) in enumerate(todo, 1):
      say(f'[{number}/{len(todo)}] {row.name}, seed {seed}: {self._outlook(row)}')
      with records.kept(row, directory / records.RESULT, self._scored) as keep:
        keep(self._run_once(seed, directory, row))
      report.write(self.folder, self._results(seeds))
    results = self._results(seeds)
    report.write(self.folder, results)
    return results

  def _is_finished(self, row, directory):
    """Returns whether a run has a result for the current settings and final evaluation."""
    kept = records.read(directory / records.RESULT)
    wanted = {'settings': row.settings, 'weights_of': row.weights_of, 'scored': self._scored}
    return 'bits' in kept and all(kept[name] == value for name, value in wanted.items())

  def _source(self, row):
    """Returns the row whose weights a row uses, usually itself."""
    return next(other for other in self.rows if other.name == (row.weights_of or row.name))

  def _outlook(self, row):
    plan = records.read(self._source(row).directory / records.PLAN)
    if 'error' in plan:
      return 'could not be measured'
    if row.weights_of:
      return f'weights of {row.weights_of}'
    return f'{plan["n_steps"]:,} steps, about {plan["n_steps"] * plan["measurement"]["step_seconds"]:,.0f} s'

  def _run_once(self, seed, directory, row):
    source = self._source(row)
    plan, run = records.read(source.directory / records.PLAN), source.directory / f'seed_{seed}'
    if 'error' in plan:
      raise InputError(plan['error'])
    if row.weights_of:
      if 'bits' not in records.read(run / records.RESULT):
        raise InputError(f'{row.weights_of!r} has no result')
    else:
      self._train(row, seed, plan['n_steps'], directory)
    # Only the configuration of the run, so that reopening the run gives the same result.
    opened = run_directory.load(run, bindings=row.lines if row.weights_of else ())
    evaluation = evaluate_run.evaluate(opened, self._scored['split'], self._scored['protocol'],
                                       max_tokens=self._scored['max_tokens'])
    return {'seed': seed, 'bits': evaluation.score.bits_per_token, 'standard_error': evaluation.score.standard_error,
            'n_tokens_scored': evaluation.score.n_tokens, 'curve': [] if row.weights_of else run_directory.curve(run)}

  def _train(self, row, seed, n_steps, directory):
    self._configuration.configure(row, n_steps, seed)
    every = self._configuration.every(n_steps)
    stops_after = lambda step: step in (1, n_steps) or step % every == 0
    gin.get_configurable('fit')(str(directory), callbacks=[
        functools.partial(step_timer.Clock, path=directory / step_timer.Clock.FILE, stops_after=stops_after)])
    gc.collect()

  def _results(self, seeds):
    rows = []
    for row in self.rows:
      source, runs = self._source(row).directory, []
      for seed in seeds:
        run, sums = row.directory / f'seed_{seed}', step_timer.read(source / f'seed_{seed}' / step_timer.Clock.FILE)
        result = records.read(run / records.RESULT)
        if 'error' in result or self._is_finished(row, run):  # Skips runs that are still to be rescored.
          runs.append({**result, 'seconds_per_step': step_timer.per_step(sums)})
      rows.append(
          results_lib.summary(row.name, row.kind, row.weights_of, records.read(source / records.PLAN), runs,
                              self._paper.get(row.name)))
    return {'budget': {self._budget.what: self._budget.amount}, **self._scored, 'seeds': list(seeds),
            **step_cost.machine(), 'rows': rows}


def _check_numbers(seeds, warmup, n_evaluations, measured_steps, max_tokens):
  if not isinstance(seeds, (tuple, list)) or not seeds or not all(
      checks.is_whole(seed) and seed >= 0 for seed in seeds) or len(set(seeds)) < len(seeds):
    raise InputError(f'compare.seeds is {seeds!r}: give different whole numbers, such as (0, 1, 2)')
  for seed in seeds:
    checks.check_seed(seed)
  if warmup is not None and (not isinstance(warmup, (int, float)) or not 0 <= warmup < 1):
    raise InputError(f'compare.warmup is {warmup!r}: give a share of the steps, at least 0 and below 1')
  checks.check_sizes(**{'compare.n_evaluations': n_evaluations, 'compare.measured_steps': measured_steps,
                        'compare.max_tokens': 1 if max_tokens is None else max_tokens})


def _check_paper(paper, rows):
  if not isinstance(paper, dict) or not all(isinstance(bits, (int, float)) for bits in paper.values()):
    raise InputError(f'compare.paper is {paper!r}: give {{row: bits}}, numbers')
  names = [row.name for row in rows]
  for name in paper:
    if name not in names:
      raise InputError(f'paper has bits for {name!r}, which is no row: the rows are {", ".join(map(repr, names))}')


def _as_gin(value):
  if not isinstance(value, dict):
    return repr(value)
  return ''.join(['{\n', *(f'    {key!r}: {entry!r},\n' for key, entry in value.items()), '}'])
