"""Tests the pretrained models of the package: their files, and access by name from Python, commands and init_from."""

import json
import re

import jax
import numpy as np
import pytest
from trax import shapes

from tests.helpers import pairs
from tests.helpers import runs
import trax_hourglass as th
from trax_hourglass import evaluate
from trax_hourglass import export
from trax_hourglass import generate
from trax_hourglass.models import pretrained
from trax_hourglass.models import weight_files
from trax_hourglass.training import checkpoints


TEXT = (b'The city is the capital of the country, and one of the largest in the world. It was founded by the Romans, '
        b'and became the seat of the king in the twelfth century. Many of its buildings were destroyed in the war.')


@pytest.fixture
def tiny(tiny_run, tmp_path, monkeypatch):
  """Provides a float16 model as the only pretrained one, 'tiny', with a config that names no data."""
  monkeypatch.setattr(pretrained, 'FOLDER', tmp_path / 'pretrained')
  (tmp_path / 'pretrained').mkdir()
  export.main(['--output_dir', str(tiny_run[0]), '--to', str(tmp_path / 'pretrained' / 'tiny.safetensors'),
               '--dtype', 'float16', '--config', 'ByteCorpus.path = None'])
  return tiny_run


def test_a_pretrained_model_loads_float16_rounded_weights(tiny, tmp_path):
  stored = weight_files.read(tmp_path / 'pretrained' / 'tiny.safetensors')
  assert {array.dtype for array in stored.arrays} == {np.dtype('float16')} and str(tiny[0].parent) not in stored.config
  run, original = th.pretrained('tiny'), th.run_directory.load(tiny[0])
  assert run.step == 30
  for array, wanted in zip(*(jax.tree.leaves(one.model.weights) for one in (run, original)), strict=True):
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.asarray(wanted, np.float16))


def test_commands_take_a_pretrained_name(tiny, capsys):
  data = '--config', f"ByteCorpus.path = '{tiny[1]}'"
  evaluate.main(['--pretrained', 'tiny', '--json', *data])
  assert json.loads(capsys.readouterr().out)['bits_per_byte'] == pytest.approx(tiny[2].valid_bits_per_token, abs=.01)
  generate.main(['--pretrained', 'tiny', '--prompt', 'abc', '--length', '5', '--temperature', '0', '--json'])
  assert len(json.loads(capsys.readouterr().out)['texts'][0]) == 5


def test_init_from_takes_a_pretrained_name(tiny, tmp_path):
  runs.run(tmp_path / 'run', *runs.HOURGLASS, 'WarmupCosine.peak = 0.0', 'n_steps = 2', 'warmup_steps = 1',
           "fit.init_from = 'tiny'", 'Hourglass.max_length = 90')
  for array, wanted in zip(checkpoints.Store(tmp_path / 'run').read(2)['weights'],
                           jax.tree.leaves(th.pretrained('tiny').model.weights), strict=True):
    np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize('command, arguments, message', [
    (evaluate, ['--pretrained', 'big'], "pretrained model is 'big'; expected one of 'tiny'"),
    (generate, ['--pretrained', '../tiny'], "pretrained model is '../tiny'; expected one of 'tiny'"),
    (evaluate, ['--pretrained', 'tiny', '--output_dir', '.'], '--pretrained and --output_dir name two models'),
    (generate, ['--pretrained', 'tiny', '--checkpoint', '7'], '--pretrained and --checkpoint name two models'),
    (export, ['--output_dir', '.', '--to', 'a.pkl.gz', '--dtype', 'float16'], 'Trax reads float32'),
])
def test_user_errors_are_one_line_with_exit_code_2(tiny, capsys, command, arguments, message):
  del tiny
  with pytest.raises(SystemExit) as stop:
    command.main(arguments)
  line, = capsys.readouterr().err.strip().splitlines()
  assert stop.value.code == 2 and message in line


def test_weights_that_overflow_float16_are_refused(tmp_path):
  model = pairs.ours('1@1')
  model.init(shapes.ShapeDtype((1, 6), np.int32))
  model.weights = jax.tree.map(lambda leaf: leaf + 7e4, model.weights)
  with pytest.raises(ValueError, match='embedding holds numbers that float16 cannot'):
    weight_files.write(tmp_path / 'a.safetensors', model, dtype='float16')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['enwik8-small', 'enwik8-small-flat'])
def test_shipped_models_are_small_trained_and_have_a_card(name, tmp_path):
  file = pretrained.file_of(name)
  assert file.stat().st_size <= 5_000_000
  config, card = weight_files.read(file).config, file.with_suffix('.md').read_text(encoding='utf-8')
  assert 'Enwik8.path = None' in config and '/tmp' not in config
  run = th.pretrained(name)
  n_parameters = sum(leaf.size for leaf in jax.tree.leaves(run.model.weights))
  assert f'| {n_parameters:,}, float16' in card and f'| {run.step:,} steps of' in card
  log_probs, = th.decoding.score(run.model, [TEXT])
  assert -log_probs.mean() / np.log(2) < 2.8  # An untrained model has 8.
  runs.run(tmp_path / 'run', f"include 'models/{name.replace('-', '_')}.gin'", f"fit.init_from = '{name}'",
           'n_steps = 1', 'warmup_steps = 1', 'WarmupCosine.peak = 0.0')
  for array, wanted in zip(checkpoints.Store(tmp_path / 'run').read(1)['weights'], jax.tree.leaves(run.model.weights),
                           strict=True):
    np.testing.assert_array_equal(array, wanted)
  bits = re.search(r'([\d.]+) ± [\d.]+ bits per byte', card)
  assert 1 < float(bits[1]) < 2.3 and f'--pretrained {name}' in card
