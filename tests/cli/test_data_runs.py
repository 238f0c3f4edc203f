"""Tests corpora set by gin and flags: data configs parse, runs resume with their saved config, errors are one line."""

import threading

import gin
import pytest

from tests.helpers import runs
from tests.helpers import pictures
from tests.helpers import doors
from tests.helpers import processes
import trax_hourglass as th
from trax_hourglass.data import cifar10
from trax_hourglass.data import corpus as corpora
from trax_hourglass.runtime import gin_config

FOLDER = processes.ROOT / 'gin' / 'data'


@pytest.mark.parametrize('file', sorted(path.name for path in FOLDER.glob('*.gin')))
def test_data_configs_set_a_corpus_and_a_vocabulary_of_256(file):
  gin_config.parse_gin(['quickstart.gin', f'data/{file}'], [])
  corpus = gin.query_parameter('fit.corpus')
  assert corpus.evaluate and issubclass(corpus.configurable.wrapped, corpora.Corpus)
  assert gin.query_parameter('Hourglass.vocab_size') == 256
  if file.startswith('imagenet'):
    kind = 'ChrabaszczImagenet' if 'chrabaszcz' in file else 'VanDenOordImagenet'
    assert corpus.configurable.name == kind and str(gin.query_parameter(f'{kind}.size')) in file


def test_image_run_over_epochs_resumes_from_its_saved_config(tmp_path):
  pictures.write_folder(tmp_path / 'images', pictures.random_images(60, 2))
  bindings = [
      f"ImageFolder.path = '{tmp_path / 'images'}'", f"ImageFolder.cache_dir = '{tmp_path / 'cache'}'",
      'ImageFolder.size = 2', 'length = 12', 'n_steps = 2', 'fit.windows = @Epochs'
  ]
  gin_config.parse_gin([runs.TINY, str(FOLDER / 'image_folder.gin')], bindings)
  assert th.fit(str(tmp_path / 'run')).step == 2
  assert 'fit.windows = @Epochs' in (tmp_path / 'run/config.gin').read_text()
  gin.clear_config()
  gin_config.parse_gin([str(tmp_path / 'run/config.gin')], ['n_steps = 4'])
  result = th.fit(str(tmp_path / 'run'))
  assert result.step == 4 and result.n_tokens_scored == 36  # The valid split holds three images.
  assert not [thread for thread in threading.enumerate() if thread.name.startswith('prefetch')]


@pytest.mark.parametrize('file, bindings, message', [
    ('enwik8', ["Enwik8.path = '{folder}'"], 'is a folder: give a file'),
    ('enwik8', ["Enwik8.path = '{folder}/other'"], 'so it does not hold enwik8'),
    ('text8', ["Text8.path = '{folder}/none'"], 'cannot be read (No such file or directory)'),
    ('cifar10', ["Cifar10.path = '{folder}/empty'"], 'holds no data_batch_1.bin'),
    ('cifar10', ["Cifar10.path = '{folder}/cifar'", 'Cifar10.n_valid = 1', "Cifar10.cache_dir = '{folder}'"],
     'length 13 cuts examples of 3072 tokens: set length = 3072'),
    ('imagenet32', ["VanDenOordImagenet.path = '{folder}'"], 'holds no train_32x32 or valid_32x32'),
    ('imagenet32_chrabaszcz', [], "give its folder of .npz files by ChrabaszczImagenet.path = 'FOLDER'"),
    ('image_folder', ["ImageFolder.path = '{folder}'", 'ImageFolder.size = 8'], 'holds no images'),
    ('image_folder', ['ImageFolder.sizes = 8'], 'sizes'),
])
def test_data_errors_end_in_one_line_with_exit_code_2(tmp_path, monkeypatch, capsys, file, bindings, message):
  (tmp_path / 'other').write_bytes(b'other')
  (tmp_path / 'cifar').mkdir()
  (tmp_path / 'empty').mkdir()
  pictures.write_binary(tmp_path / 'cifar')
  monkeypatch.setattr(cifar10, '_PUBLISHED', {})
  flags = [flag for binding in bindings for flag in ('--config', binding.format(folder=tmp_path))]
  arguments = ['--config_file', runs.TINY, '--config_file', f'data/{file}.gin', '--output_dir', tmp_path / 'run']
  assert doors.main(monkeypatch, *arguments, *flags) == 2
  out, err = capsys.readouterr()
  line = err.splitlines()[-1]
  assert not out and line.startswith('train: ') and message in line and 'Traceback' not in err
  assert not (tmp_path / 'run').exists()
