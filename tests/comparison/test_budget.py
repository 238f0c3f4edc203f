"""Tests the plan of a comparison: steps within a budget, interleaved timing of rows, failed rows tried last."""

import dataclasses
import json

import pytest

from trax_hourglass.comparison import compare
from trax_hourglass.comparison import budget as budget_lib
from trax_hourglass.comparison import step_cost
from trax_hourglass.runtime import gin_config
from trax_hourglass.training import run_directory
from tests.helpers.comparisons import MEASURED
from tests.helpers.comparisons import by_name
from tests.helpers.comparisons import run

SECONDS = 'compare.steps = None', 'compare.seconds = 100', 'compare.seeds = (0,)'


def not_run(self, seed, directory, row):
  return {'error': 'not run'}


@pytest.mark.parametrize('budget, n_steps', [
    ('compare.steps = 9', 9), ('compare.steps = None\ncompare.seconds = 60', 240),
    ('compare.steps = None\ncompare.flops = 1e11', 50), ('compare.steps = None\ncompare.seconds = 0.01', 1)])
def test_budget_sets_the_steps_and_the_schedule(tmp_path, monkeypatch, budget, n_steps):
  seen = []
  monkeypatch.setattr(step_cost, 'measure', lambda *args, **kwargs: MEASURED)

  def run_once(self, seed, directory, row):
    if not row.weights_of:
      self._configuration.configure(row, json.loads((row.directory / 'row.json').read_text())['n_steps'], seed)
      seen.append((run_directory.setting('n_steps'), run_directory.setting('schedule')(n_steps),
                   gin_config.bound('WarmupCosine.warmup_steps')))
    return {'error': 'not run'}

  monkeypatch.setattr(compare.Comparison, '_run_once', run_once)
  run(tmp_path, *budget.splitlines(), 'compare.seeds = (0,)', 'compare.warmup = 0.2')
  assert seen == [(n_steps, 0.0, round(0.2 * n_steps))] * 2


def test_row_timing_is_interleaved_and_calibrates_later_rows(tmp_path, monkeypatch):
  order = []

  def measure(self, row):
    order.append(row.name)
    return dataclasses.replace(MEASURED, step_seconds={'flat': [1.0, 4.0, 2.0, 4.0, 4.0, 4.0], 'drawn': [3.0, 2.0, 8.0],
                                                       'late': [8.0, 6.0, 7.0]}[row.name][order.count(row.name) - 1])

  monkeypatch.setattr(budget_lib.Planner, 'measure', measure)
  monkeypatch.setattr(compare.Comparison, '_run_once', not_run)
  steps = lambda name: json.loads((tmp_path / name / 'row.json').read_text())['n_steps']
  run(tmp_path, *SECONDS)
  assert order == ['flat', 'drawn'] * 3 and (steps('flat'), steps('drawn')) == (50, 33)
  run(tmp_path, *SECONDS, "compare.own_rows = {'late': 'Hourglass.d_ff = 11'}")
  # The first row now takes twice its earlier time, so the time of the new row is halved.
  assert order[6:] == ['flat', 'late'] * 3 and steps('late') == round(100 / 3.5)


def test_a_failed_remeasurement_does_not_stop_the_comparison(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(budget_lib.Planner, 'measure', lambda self, row: MEASURED)
  monkeypatch.setattr(compare.Comparison, '_run_once', not_run)
  run(tmp_path, *SECONDS)
  path = tmp_path / 'flat' / 'row.json'
  path.write_text(path.read_text().replace('"cores": ', '"cores": 99'))

  def measure(self, row):
    if row.name != 'late':
      raise MemoryError('too large by now')
    return MEASURED

  monkeypatch.setattr(budget_lib.Planner, 'measure', measure)
  rows = by_name(run(tmp_path, *SECONDS, "compare.own_rows = {'late': 'Hourglass.d_ff = 11'}"))
  assert rows['late']['n_steps'] == 400
  said = capsys.readouterr().err
  assert 'flat could not be measured again: too large by now' in said and 'flat was planned elsewhere' in said


def test_failed_rows_are_retried_last(tmp_path, monkeypatch):
  tried = []

  def run_once(self, seed, directory, row):
    tried.append(row.name)
    # The result that remains if the process is killed.
    assert 'ended' in json.loads((directory / 'result.json').read_text())['error']
    raise ValueError('no')

  monkeypatch.setattr(budget_lib.Planner, 'measure', lambda self, row: MEASURED)
  monkeypatch.setattr(compare.Comparison, '_run_once', run_once)
  run(tmp_path, 'compare.seeds = (0,)', 'compare.also_evaluate = None')
  run(tmp_path, 'compare.seeds = (0,)', 'compare.also_evaluate = None', "compare.own_rows = {'late': 'Hourglass.d_ff = "
                                                                        "11'}")
  assert tried == ['flat', 'drawn', 'late', 'flat', 'drawn']
