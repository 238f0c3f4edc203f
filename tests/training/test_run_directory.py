"""Tests the loading of runs: the model with its weights, in either layout, or one clear error."""

import json
import shutil

import gin
import jax
import numpy as np
import pytest
import trax
from trax import shapes

from tests.helpers import outcomes
from tests.helpers import pairs
from tests.helpers import runs
import trax_hourglass as th
from trax_hourglass import evaluate
from trax_hourglass import export as export_command
from trax_hourglass import generate
from trax_hourglass.models import interop
from trax_hourglass.models import weight_files
from trax_hourglass.training import run_directory

TINY = runs.TINY


@pytest.fixture(scope='module')
def trained(tiny_run):
  """A run directory after 30 steps."""
  return tiny_run[0]


@pytest.fixture(scope='module')
def opened(trained):
  gin.clear_config()
  return run_directory.load(trained)


def test_load_restores_the_last_saved_weights(trained, opened):
  assert opened.step == 30 and opened.checkpoint == trained / 'checkpoints' / '30'
  stored = outcomes.outcome(trained)[0]['weights']
  for found, expected in zip(jax.tree.leaves(opened.model.weights), stored, strict=True):
    np.testing.assert_array_equal(found, expected)


def test_checkpoint_is_chosen_by_step_or_as_best(tmp_path):
  runs.run(tmp_path, *runs.HOURGLASS, 'n_steps = 4', 'fit.checkpoint_every = 2', 'fit.eval_every = 2',
           'peak_learning_rate = 30.0', 'warmup_steps = 4')  # Diverges after step 2.
  bits = dict(run_directory.curve(tmp_path))
  assert bits[2] < bits[4]
  for which, step in {'2': 2, '4': 4, 'best': 2, None: 4}.items():
    assert run_directory.load(tmp_path, checkpoint=which).step == step
  for which, message in {'3': 'no checkpoint of step 3 in .*; there are: 2, 4',
                         'worst': r"checkpoint 'worst' does not exist: give a step, of \[2, 4\], 'best'"}.items():
    with pytest.raises(ValueError, match=message):
      run_directory.load(tmp_path, checkpoint=which)


def test_export_is_read_by_trax(trained, opened, tmp_path, monkeypatch, capsys):
  def export(*flags):
    monkeypatch.setattr('sys.argv', ['export', '--output_dir', str(trained), *map(str, flags)])
    export_command.main()
    assert 'weights of step 30 are in' in capsys.readouterr().out
  one = shapes.ShapeDtype((1, 6), np.int32)
  export('--to', tmp_path / 'ours.pkl.gz')
  ours = th.Hourglass(mode='eval')
  ours.init_from_file(str(tmp_path / 'ours.pkl.gz'), weights_only=True, input_signature=one)
  jax.tree.map(np.testing.assert_array_equal, ours.weights, opened.model.weights)
  export('--to', tmp_path / 'authors.pkl.gz', '--authors')
  theirs = trax.models.HourglassLM(256, 14, 10, vanilla_layers=(0, 0), hierarchy='1@3', n_heads=7, mode='eval',
                                  downsampling_fn=pairs.SHORTENINGS['average'][1],
                                  upsampling_fn=pairs.UPSAMPLINGS['repeat'][1])
  theirs.init_from_file(str(tmp_path / 'authors.pkl.gz'), weights_only=True, input_signature=one)
  tokens = np.arange(12, dtype=np.int32)[None]
  np.testing.assert_allclose(theirs(tokens), opened.model(tokens), atol=1e-4)
  with pytest.raises(SystemExit) as ended:
    export('--to', tmp_path / 'weights.txt')
  assert ended.value.code == 2 and 'ends with .pkl.gz' in capsys.readouterr().err


def test_a_safetensors_file_needs_no_config_beside_it(trained, opened, tmp_path, capsys):
  path = tmp_path / 'model.safetensors'
  export_command.main(['--output_dir', str(trained), '--to', str(path)])
  assert f'weights of step 30 are in {path}' in capsys.readouterr().out
  assert path.stat().st_size < 2 * sum(w.nbytes for w in jax.tree.leaves(opened.model.weights))  # With the config.
  run = run_directory.load(checkpoint=path)
  jax.tree.map(np.testing.assert_array_equal, run.model.weights, opened.model.weights)
  assert run.step == 30 and run.settings.length == opened.settings.length
  evaluate.main(['--checkpoint', str(path), '--json'])
  assert json.loads(capsys.readouterr().out)['step'] == 30
  generate.main(['--checkpoint', str(path), '--length', '5', '--json'])
  assert json.loads(capsys.readouterr().out)['bytes_written'] == 5
  with pytest.raises(SystemExit) as ended:
    export_command.main(['--output_dir', str(trained), '--to', str(path), '--authors'])
  assert ended.value.code == 2 and 'trax.models.HourglassLM reads .pkl.gz' in capsys.readouterr().err


def test_a_config_in_a_weight_file_cannot_register_functions(opened, tmp_path):
  config = 'from __gin__ import dynamic_registration\nimport os\nfit.model = @os.getcwd()\n'
  weight_files.write(tmp_path / 'hostile.safetensors', opened.model, config=config)
  with pytest.raises(ValueError, match='its config registers functions of any module'):
    run_directory.load(checkpoint=tmp_path / 'hostile.safetensors')
  (tmp_path / 'inc.gin').write_text('import evil')
  for line in 'import evil', 'import \\\n  evil', 'from evil.x import y', f"include '{tmp_path}/inc.gin'":
    weight_files.write(tmp_path / 'hostile.safetensors', opened.model, config=f'import trax_hourglass\n{line}\n')
    with pytest.raises(ValueError, match='its config has .(import|from|include) .*could run any code'):
      run_directory.load(checkpoint=tmp_path / 'hostile.safetensors')
  weight_files.write(tmp_path / 'bare.safetensors', opened.model)
  with pytest.raises(ValueError, match='bare.safetensors holds no config: give the config file of its model'):
    run_directory.load(checkpoint=tmp_path / 'bare.safetensors')


def test_settings_of_a_loaded_run_can_be_read(trained):
  run_directory.load(trained, bindings=['length = 12'])
  assert run_directory.setting('batch_size') == 2 and run_directory.setting('length') == 12
  assert len(run_directory.setting('corpus').split('valid')) == 50
  assert run_directory.setting('shard_weights') is False
  with pytest.raises(ValueError, match="fit has no parameter 'seedling'"):
    run_directory.setting('seedling')


def test_authors_checkpoint_opens_with_a_config(opened, tmp_path):
  path = tmp_path / 'authors.pkl.gz'
  interop.to_trax(opened.model, str(path))
  again = run_directory.load(config_files=[TINY], bindings=runs.HOURGLASS, checkpoint=path)
  jax.tree.map(np.testing.assert_array_equal, again.model.weights, opened.model.weights)
  assert again.step is None and again.checkpoint == path


@pytest.mark.parametrize('bindings, message', [
    (['Hourglass.vocab_size = 300'], 'vocabulary of 256 and the config one of 300'),
    (['Hourglass.d_model = 28'], 'width of 14 and the config one of 28'),
    (['Hourglass.hierarchy = "0@1 1@4 0@1"', 'Hourglass.shortening = @ShortenByLinear'],
     'does not fit the model: it holds'),
    (['Hourglass.d_ff = 11'], 'has shape'),
])
def test_a_checkpoint_of_another_model_is_refused(trained, bindings, message):
  with pytest.raises(ValueError, match=message):
    run_directory.load(trained, bindings=bindings)


def test_load_names_what_is_missing(trained, tmp_path):
  with pytest.raises(ValueError, match="nowhere' is missing"):
    run_directory.load(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='is a file'):
    run_directory.load(trained / 'config.gin')
  with pytest.raises(ValueError, match='no checkpoint'):
    run_directory.load(tmp_path)
  shutil.copytree(trained / 'checkpoints', tmp_path / 'checkpoints')
  with pytest.raises(ValueError, match='no config.gin'):
    run_directory.load(tmp_path)
  with pytest.raises(ValueError, match='run directory, a pretrained model, or a checkpoint'):
    run_directory.load(config_files=[TINY])
  with pytest.raises(ValueError, match='no such file'):
    run_directory.load(checkpoint=tmp_path / 'model.pkl.gz', config_files=[TINY])
  with pytest.raises(ValueError, match='fit.model'):
    run_directory.load(trained, config_files=['data/bytes.gin'])
