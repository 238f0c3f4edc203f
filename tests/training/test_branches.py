"""Tests branches: a branch of a run equals a run configured with the same number of steps from the start."""

import jax
import numpy as np
import pytest

from tests.helpers import runs
from trax_hourglass.training import checkpoints

SCHEDULE = ('fit.schedule = @WarmupStableDecay()', 'WarmupStableDecay.peak = 0.01',
            'WarmupStableDecay.warmup_steps = 1', 'WarmupStableDecay.decay_steps = 2',
            'WarmupStableDecay.n_steps = %n_steps')


@pytest.fixture(scope='module')
def long_run(tmp_path_factory):
  """A run of 8 steps that keeps the checkpoint of every second step."""
  path = tmp_path_factory.mktemp('long') / 'run'
  runs.run(path, *SCHEDULE, 'n_steps = 8', 'fit.keep_every = 2')
  return path


def branch(path, long_run, *bindings, step=4):
  return runs.run(path, *SCHEDULE, f'fit.branch_from = ({str(long_run)!r}, {step})', 'n_steps = 6', *bindings)


def test_a_branch_equals_a_run_of_its_length_from_the_start(long_run, tmp_path, capsys):
  before = runs.listing(long_run)
  branched = branch(tmp_path / 'branch', long_run)
  assert f'the run branches off {long_run} at step 4\n' in capsys.readouterr().err
  whole = runs.run(tmp_path / 'whole', *SCHEDULE, 'n_steps = 6')
  assert branched.valid_bits_per_token == whole.valid_bits_per_token
  one, other = (checkpoints.Store(tmp_path / name) for name in ('branch', 'whole'))
  for a, b in zip(*(jax.tree.leaves(store.read(6)) for store in (one, other)), strict=True):
    np.testing.assert_array_equal(a, b)
  metrics = [{name: values for name, values in store.notes(6)['history']['_values']['train'].items()
              if name.startswith('metrics/')} for store in (one, other)]
  assert metrics[0] == metrics[1]
  assert runs.listing(long_run) == before
  # The branch resumes as an independent run, even if the original directory is gone.
  branch(tmp_path / 'branch', tmp_path / 'gone', 'n_steps = 7')
  assert one.steps()[-1] == 7


@pytest.mark.parametrize('bindings, message', [
    (["fit.branch_from = 'runs/long'"], r"branch_from is 'runs/long': give a run directory and a step, as in \('"),
    (["fit.branch_from = ('runs/long', '4')"], r"branch_from is \('runs/long', '4'\): give"),
    (["fit.branch_from = ('nowhere', 4)"], "branch_from: there is no checkpoint of step 4 in '.*nowhere/checkpoints'"),
    (['Hourglass.d_ff = 11'], r"long.*/run' holds a run of another config: Hourglass.d_ff was 10 and is 11"),
    (["fit.init_from = 'enwik8-small'"], "4[)] and init_from 'enwik8-small': give one of them"),
    (['n_steps = 4'], r"run', 4\) and n_steps 4: give more steps, or an earlier one"),
    (['fit.windows = @Epochs'], 'fit.windows was @RandomWindows and is @Epochs'),
    (['fit.seed = 1'], 'holds a run of another config: fit.seed was 0 and is 1'),
])
def test_invalid_branches_are_refused(long_run, tmp_path, bindings, message):
  with pytest.raises(ValueError, match=message):
    branch(tmp_path / 'run', long_run, *bindings)
  assert not (tmp_path / 'run').exists()


def test_branching_from_a_step_without_checkpoint_is_refused(long_run, tmp_path):
  with pytest.raises(ValueError, match='branch_from: there is no checkpoint of step 5 in .*; there are: 2, 4, 6, 8'):
    branch(tmp_path / 'run', long_run, step=5)
