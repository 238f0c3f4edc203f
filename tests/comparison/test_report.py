"""Tests the report of a comparison: orderings, training seconds that miss the budget, plots and tables."""

import dataclasses

from matplotlib import axes
import numpy as np
import pytest

from trax_hourglass.comparison import budget as budget_lib
from trax_hourglass.comparison import plots
from trax_hourglass.comparison import report
from trax_hourglass.comparison import results
from tests.helpers.comparisons import MEASURED


def test_uncountable_flops_cannot_be_a_budget():
  estimated = dataclasses.replace(MEASURED, flops_from='compiler')
  assert budget_lib.Budget('seconds', 60).n_steps(estimated) == 240
  with pytest.raises(ValueError, match='cannot be counted'):
    budget_lib.Budget('flops', 1e12).n_steps(estimated)


def test_table_reports_training_seconds_off_the_budget():
  def row(name, spent, seconds):
    plan = {'unit': 'byte', 'measurement': dataclasses.asdict(MEASURED), 'machine': {}, 'n_steps': 10, 'tokens': 70}
    result = {'seed': 0, 'bits': 3.0, 'standard_error': 0.1, 'seconds_per_step': (spent, seconds), 'curve': []}
    return results.summary(name, 'flat', None, plan, [result])

  said = report.table(
      {'budget': {'seconds': 100}, 'seeds': [0], 'split': 'valid', 'rows': [row('a', 20.0, 10.4),
                                                                            row('b', 8.8, 8.8)]})
  assert 'not the 100 of the budget: b (-12%).' in said
  assert 'of the budget' not in report.table({'budget': {'seconds': 100}, 'seeds': [0], 'rows': [row('a', 20.0, 10.4)]})


def test_flops_estimated_by_the_compiler_are_not_plotted(tmp_path, monkeypatch):
  drawn = []
  original = axes.Axes.errorbar
  monkeypatch.setattr(axes.Axes, 'errorbar', lambda self, x, y, **look: (
      drawn.append((self.get_xlabel().split()[0], look['label'])), original(self, x, y, **look))[1])
  rows = []
  for name, source in (('a', 'products'), ('b', 'compiler')):
    plan = {
        'unit': 'byte', 'measurement': dataclasses.asdict(dataclasses.replace(MEASURED, flops_from=source)),
        'machine': {}, 'n_steps': 10, 'tokens': 70
    }
    result = {
        'seed': 0, 'bits': 3.0, 'standard_error': 0.1, 'seconds_per_step': (1.0, 1.0), 'curve': [[1, 8.0], [10, 3.0]]
    }
    rows.append(results.summary(name, 'flat', None, plan, [result]))
  plots.plot(tmp_path, {'budget': {'steps': 10}, 'seeds': [0], 'split': 'valid', 'rows': rows})
  assert drawn == [('training', 'a'), ('temporary', 'a'), ('temporary', 'b'), ('seconds', 'a'), ('seconds', 'b')]


def test_orderings_compare_rows_within_a_seed():
  def row(name, paper, *bits):
    return {'name': name, 'paper': paper, 'n_seeds': len(bits), 'bits_of_seeds': dict(enumerate(bits))}

  rows = [row('a', 1.3, 3.0, 4.0, 5.0), row('b', 1.1, 2.9, 3.9, 4.9), row('c', 1.2, 3.2, 4.2, 5.2),
          row('d', 1.0, 2.8, 4.0, 4.9), row('e', 1.0, 2.9)]
  found = {(pair['better'], pair['worse']): pair for pair in report.orderings({'rows': rows})}
  assert {pair: entry['verdict'] for pair, entry in found.items()} == {
      ('d', 'b'): 'open', ('d', 'c'): 'holds', ('d', 'a'): 'open', ('b', 'c'): 'holds', ('b', 'a'): 'holds',
      ('c', 'a'): 'reversed'}
  # Differences .1, -.1, 0: mean 0, standard deviation .1; Student's t for two degrees of freedom is 4.3027.
  np.testing.assert_allclose([found['d', 'b'][name] for name in ('difference', 'interval', 'paper')],
                             [0.0, 4.3027 * 0.1 / 3**0.5, 0.1], atol=1e-5)
  many = [row(str(i), 1 + i / 10, 3.0 + i, 4.0 + i) for i in range(9)]
  assert [(pair['better'], pair['worse']) for pair in report.orderings({'rows': many})] == [
      (str(i), str(i + 1)) for i in range(8)]


def test_markdown_table_equals_a_handwritten_one():
  rows = [{'row': 'a', 'n': 12345, 'x': 0.123456}, {'row': '2|3', 'n': 6}]
  assert report.markdown(rows, ['row', 'missing', 'n', 'x']) == (
      '| row | n | x |\n|---|---|---|\n| a | 12,345 | 0.1235 |\n| 2\\|3 | 6 |  |')
