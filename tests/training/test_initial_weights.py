"""Tests initial weights from another run, all or only those that fit, and early stopping without improvement."""

import jax
import numpy as np
import pytest

from tests.helpers import runs
from trax_hourglass.models import interop
from trax_hourglass.models import weight_files
from trax_hourglass.training import checkpoints
from trax_hourglass.training import run_directory

# A learning rate of 0, so that the final weights equal the initial ones.
STILL = *runs.HOURGLASS, 'WarmupCosine.peak = 0.0', 'n_steps = 2', 'warmup_steps = 1'


@pytest.fixture(scope='module')
def source(tiny_run):
  """The tiny run, opened."""
  return run_directory.load(tiny_run[0])


def begun(tmp_path, init_from, *bindings):
  """Returns the weights of a run that was initialised from `init_from` and trained at a learning rate of 0."""
  runs.run(tmp_path / 'run', *STILL, f'fit.init_from = {str(init_from)!r}', *bindings)
  return checkpoints.Store(tmp_path / 'run').read(2)['weights']


@pytest.mark.parametrize('form', ['run', 'checkpoint.safetensors', 'ours.pkl.gz', 'authors.pkl.gz'])
def test_init_from_starts_with_the_given_weights(tiny_run, source, tmp_path, capsys, form):
  path = tiny_run[0] if form == 'run' else tmp_path / form
  if form == 'authors.pkl.gz':
    interop.to_trax(source.model, path)
  elif form != 'run':
    weight_files.write(path, source.model, step=30)
  for array, wanted in zip(begun(tmp_path, path), jax.tree.leaves(source.model.weights), strict=True):
    np.testing.assert_array_equal(array, wanted)
  n = len(jax.tree.leaves(source.model.weights))
  step = '' if form.endswith('.pkl.gz') else ' of step 30'
  where = tiny_run[0] / 'checkpoints' / '30' if form == 'run' else path
  assert f'{n} of {n} weights are those{step} of {where}\n' in capsys.readouterr().err


def test_init_from_lists_weights_that_do_not_fit(tiny_run, tmp_path):
  with pytest.raises(ValueError, match=r'init_from: .*30 does not fit the model: \S+dense/w is 1 x 14 x 10 and the '
                                       r'model wants 1 x 14 x 12; .*; set fit.init_partial = True to'):
    begun(tmp_path, tiny_run[0], 'Hourglass.d_ff = 12')
  assert not (tmp_path / 'run').exists()


def test_init_partial_takes_the_weights_that_fit(tiny_run, source, tmp_path, capsys):
  weights = begun(tmp_path, tiny_run[0], 'Hourglass.d_ff = 12', 'fit.init_partial = True')
  same = [array.shape == leaf.shape and (array == leaf).all()
          for array, leaf in zip(weights, jax.tree.leaves(source.model.weights), strict=True)]
  assert same.count(False) == 3  # The kernels and the bias with dimension d_ff.
  assert f'{len(same) - 3} of {len(same)} weights are those of step 30' in capsys.readouterr().err


def test_resume_takes_precedence_over_init_from(tiny_run, tmp_path):
  weights = begun(tmp_path, tiny_run[0])
  runs.run(tmp_path / 'run', *STILL, "fit.init_from = 'gone.safetensors'", 'n_steps = 3')
  for array, before in zip(checkpoints.Store(tmp_path / 'run').read(3)['weights'], weights, strict=True):
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize('bindings, message', [
    (["fit.init_from = 'nowhere'"], "init_from is 'nowhere', which is missing: give a run directory, a file that"),
    (['fit.init_from = 3'], 'init_from is 3: give a run directory'),
    (["fit.init_from = 'nowhere.pkl.gz'"], 'nowhere.pkl.gz: no such file'),
    (['fit.init_partial = True'], 'init_partial is True and init_from is None'),
    (['fit.stop_after = 0'], 'stop_after is 0'),
])
def test_invalid_init_and_stop_after_settings_are_refused(tmp_path, bindings, message):
  with pytest.raises(ValueError, match=message):
    runs.run(tmp_path / 'run', *STILL, *bindings)
  assert not (tmp_path / 'run').exists()


def test_stop_after_ends_a_run_without_improvement(tmp_path, capsys):
  bindings = *STILL, 'fit.eval_every = 1', 'fit.stop_after = 2', 'n_steps = 9'
  result = runs.run(tmp_path / 'run', *bindings)
  assert result.step == 3 and 'ended at step 3: no better evaluation among the last 2' in capsys.readouterr().err
  assert runs.run(tmp_path / 'run', *bindings).step == 3
  assert runs.run(tmp_path / 'run', *bindings, 'fit.stop_after = 4').step == 5
