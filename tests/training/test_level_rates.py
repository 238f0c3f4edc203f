"""Tests learning-rate factors by level or name, which scale only the updates, and the warmup-stable-decay schedule."""

import jax
import numpy as np
import pytest
from trax import optimizers

from tests.helpers import pairs
from tests.helpers import runs
from trax_hourglass.models import weight_names
from trax_hourglass.training import checkpoints
from trax_hourglass.training import level_rates
from trax_hourglass.training import schedules


def stepped(optimizer, model):
  """Returns the weights after one step of the optimizer with gradients of ones."""
  level_rates.initialise(optimizer, model.weights, model)
  gradients = jax.tree.map(np.ones_like, model.weights)
  new, _, _ = optimizer.tree_update(1, gradients, model.weights, optimizer.slots, optimizer.opt_params)
  return jax.tree.leaves(new)


@pytest.mark.parametrize('rates', [(1.0, 0.25, 0.0), {'valley/valley': 0.0, 'valley': 0.25}])
def test_each_level_has_its_own_learning_rate(rates):
  model = pairs.initialise(pairs.ours('0@1 1@2 1@4 0@2 1@1', 'average', 'repeat'), 12)
  plain = stepped(optimizers.Adam(0.1), model)
  scaled = stepped(level_rates.LevelRates(optimizers.Adam(0.1), rates), model)
  names = weight_names.names(model)
  assert {name.count('valley') for name in names} == {0, 1, 2}
  for name, before, after, new in zip(names, jax.tree.leaves(model.weights), plain, scaled, strict=True):
    factor = (1.0, 0.25, 0.0)[name.split('/').count('valley')]
    np.testing.assert_allclose(new - before, factor * (after - before), atol=1e-6)
    assert factor != 1 or (np.asarray(new) == np.asarray(after)).all()


def test_rates_of_one_do_not_change_the_run(tmp_path):
  plain = runs.HOURGLASS, ()
  by_level = runs.HOURGLASS, ('fit.optimizer = @LevelRates()', 'LevelRates.optimizer = @trax.optimizers.Adam()',
                              'LevelRates.rates = (1, 1)')
  weights = []
  for name, bindings in (('plain', plain), ('by_level', by_level)):
    runs.run(tmp_path / name, *(line for lines in bindings for line in lines))
    weights.append(checkpoints.Store(tmp_path / name).read(4)['weights'])
  for a, b in zip(*weights, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('rates, message', [
    ((), r'rates of LevelRates is \(\)'), (3, 'rates of LevelRates is 3'), ((1, -1), r'is \(1, -1\): give a number'),
    ((1, 1, 1), r'\(1, 1, 1\): expected 2 of them'), ({'nothing': 1}, "'nothing', which is in no name of a weight"),
])
def test_invalid_level_rates_are_refused(tmp_path, rates, message):
  with pytest.raises(ValueError, match=message):
    runs.run(tmp_path / 'run', *runs.HOURGLASS, 'fit.optimizer = @LevelRates()',
             'LevelRates.optimizer = @trax.optimizers.Adam()', f'LevelRates.rates = {rates!r}')


def test_level_rates_need_an_optimizer():
  with pytest.raises(ValueError, match='optimizer of LevelRates is 3: give a reference'):
    level_rates.LevelRates(3, (1.0,))


def test_warmup_stable_decay_matches_values_by_hand():
  rate = schedules.WarmupStableDecay(2.0, 4, 5, 20)
  assert [rate(step) for step in (0, 2, 4, 9, 15, 16, 19, 20, 25)] == [0, 1, 2, 2, 2, 1.6, 0.4, 0, 0]
  longer = schedules.WarmupStableDecay(2.0, 4, 5, 200)
  assert all(rate(step) == longer(step) for step in range(16))  # Both are equal up to the decay.
  by_share = schedules.WarmupStableDecay(2.0, 4, 0.25, 20)
  assert [by_share(step) for step in range(21)] == [rate(step) for step in range(21)]
  for arguments in (2.0, 9, 12, 20), (2.0, -1, 2, 20), (2.0, 0, 0, 0), ('x', 1, 1, 9):
    with pytest.raises(ValueError, match='warmup_steps is|peak of the learning rate schedule'):
      schedules.WarmupStableDecay(*arguments)
