"""A run directory written by the flat package of version 0.1 (commit feea1f9) resumes, evaluates, samples and exports.
"""

import json
import pathlib
import tarfile

import jax
import numpy as np
import pytest

from tests.helpers import runs
from trax_hourglass import evaluate
from trax_hourglass import export
from trax_hourglass import generate
from trax_hourglass import train
from trax_hourglass.models import trax_checkpoint
from trax_hourglass.training import run_directory

ARCHIVE = pathlib.Path(__file__).parent / 'run_of_version_0_1.tar.xz'
# Bits per byte printed by commit feea1f9: by scoring after 4 steps, and by `train` after resuming up to step 6.
SCORED, WHEN_RESUMED = 7.955096301186636, 7.958224115261348


@pytest.fixture
def old(tmp_path, monkeypatch):
  """The run directory, beside its text, as a path relative to the working directory."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'text').write_bytes(bytes(97 + (i * i + i // 7) % 23 for i in range(4000)))
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(tmp_path, filter='data')
  return 'run'


def test_an_old_run_evaluates_samples_and_exports(old, capsys):
  evaluate.main(['--output_dir', old, '--json'])
  np.testing.assert_allclose(json.loads(capsys.readouterr().out)['bits_per_byte'], SCORED, rtol=1e-5)
  generate.main(['--output_dir', old, '--length', '5', '--json'])
  assert json.loads(capsys.readouterr().out)['bytes_written'] == 5
  export.main(['--output_dir', old, '--to', 'model.pkl.gz'])
  stored = jax.tree.leaves(run_directory.load(old).model.weights)
  for exported, expected in zip(trax_checkpoint.read_weights('model.pkl.gz'), stored, strict=True):
    np.testing.assert_array_equal(exported, expected)


def test_an_old_run_resumes(old, capsys):
  train.main(['--output_dir', old, '--config', 'n_steps = 6', '--json'])
  result = json.loads(capsys.readouterr().out)
  assert result['step'] == 6
  np.testing.assert_allclose(result['valid_bits_per_byte'], WHEN_RESUMED, rtol=1e-4)
  assert json.loads(pathlib.Path(old, 'versions.json').read_text())['format'] == 1


@pytest.mark.parametrize('content, message', [
    ('{"format": 2}', "holds a run of format 2, and this version of trax_hourglass reads format 1"),
    ('{"format": "new"}', "holds a run of format 'new'"), ('{', 'does not say the format of the run'),
    ('[1]', 'does not say the format of the run')])
def test_an_unknown_format_is_refused_and_nothing_changes(old, capsys, content, message):
  pathlib.Path(old, 'versions.json').write_text(content)
  before = runs.listing(old)
  for command, arguments in ((evaluate, []), (train, ['--config', 'n_steps = 6'])):
    with pytest.raises(SystemExit) as ended:
      command.main(['--output_dir', old, *arguments])
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(said) == 1 and message in said[0]
  assert runs.listing(old) == before


def test_a_run_directory_of_trax_is_recognised(tmp_path, capsys):
  (tmp_path / 'model.pkl.gz').write_bytes(b'')
  with pytest.raises(SystemExit):
    evaluate.main(['--output_dir', str(tmp_path)])
  assert "is a run of Trax's own trainer: give --checkpoint" in capsys.readouterr().err
