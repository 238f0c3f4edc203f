"""Tests splits: those in the names of files and folders are used, and the summary reports the origin of each split."""

import pathlib
import zipfile

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.helpers import pictures
from tests.helpers import runs
import trax_hourglass as th
from trax_hourglass.data import splits
from trax_hourglass.training import run_config


@pytest.mark.parametrize('names, found', [
    (['train.txt', 'valid.txt', 'test.txt'], {'train': 1, 'valid': 1, 'test': 1}),
    (['wiki.train.raw', 'wiki.valid.raw', 'wiki.test.raw'], {'train': 1, 'valid': 1, 'test': 1}),
    (['TRAIN/a', 'TRAIN/b/c', 'Dev/a'], {'train': 2, 'valid': 1}),
    (['training/a', 'validation/a', 'testing/a'], {'train': 1, 'valid': 1, 'test': 1}),
    (['data/all/train.csv.gz', 'data/all/val-2.csv.gz'], {'train': 1, 'valid': 1}),
    (['train-0', 'train-1', 'test-0'], {'train': 2, 'test': 1}),
    (['train/a', 'test.txt'], {'train': 1, 'test': 1}),
])
def test_split_names_are_recognised(names, found):
  by_split, how = splits.named(names)
  assert {split: len(of_split) for split, of_split in by_split.items()} == found
  assert sorted(sum(by_split.values(), [])) == sorted(names) and how.endswith('as files and folders are named')


@pytest.mark.parametrize('names, said', [
    (['car/a', 'bus/a', 'train/a'], 'no splits in the names'),
    (['train/a', 'test/a', 'README'], "train and test are no splits here, since 'README' lies beside them"),
    (['train.txt', 'test.txt', 'latest.txt'], "since 'latest.txt' lies beside them"),
    (['train/valid/a', 'train/test/a'], 'no splits in the names'), (['a.txt'], 'no splits'),
    (['train.test.txt', 'valid.txt', 'train.txt'], "since 'train.test.txt' lies beside them"),
])
def test_other_names_are_not_taken_for_splits(names, said):
  by_split, how = splits.named(names)
  assert by_split is None and said in how


NAME = st.text('abtrainvlides./', min_size=1, max_size=9).filter(lambda name: all(name.split('/')))


@given(st.lists(NAME, min_size=1, unique=True))
def test_splits_partition_the_files_or_there_are_none(names):
  by_split, how = splits.named(names)
  assert how and (by_split is None or sorted(sum(by_split.values(), [])) == sorted(names) and len(by_split) > 1)


def texts(folder, **contents):
  for name, content in contents.items():
    path = folder / name.replace('__', '/')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  return str(folder)


def bytes_of(corpus, split):
  tokens = corpus.split(split)
  return tokens.read(0, len(tokens)).astype(np.uint8).tobytes()


def test_text_splits_follow_file_and_folder_names(tmp_path):
  corpus = th.ByteCorpus(texts(tmp_path / 'a', train__1=b'one ', train__2=b'two ', VAL__1=b'three', test__1=b'four'))
  assert [bytes_of(corpus, split) for split in ('train', 'valid', 'test')] == [b'one two ', b'three', b'four']
  assert '4 files, 17 bytes; train, valid, test as files and folders are named' in corpus.summary
  corpus = th.ByteCorpus(texts(tmp_path / 'b', **{'train.txt': b'x' * 39 + b'y', 'test.txt': b'z'}))
  assert [bytes_of(corpus, split) for split in ('valid', 'test')] == [b'xy', b'z'] and len(corpus.split('train')) == 38
  assert 'valid is the last 2 bytes of train' in corpus.summary
  corpus = th.ByteCorpus(texts(tmp_path / 'c', **{'train.txt': b'xx', 'dev.txt': b'y'}))
  with pytest.raises(ValueError, match='c has no test split: no file or folder of .* is named after it'):
    corpus.split('test')
  path = texts(tmp_path / 'd', **{'train.txt': b'x' * 18, 'test.txt': b'yz'})
  corpus = th.ByteCorpus(path, splits='shared')
  assert len(corpus.split('train')) == 18 and 'splits = shared: divided by position' in corpus.summary
  with pytest.raises(ValueError, match="splits is 'hashed': choose one of 'named', 'shared'"):
    th.ByteCorpus(path, splits='hashed')


@pytest.mark.parametrize('separator', ['/', '\\'])
def test_image_splits_follow_folder_names(tmp_path, separator):
  images = pictures.random_images(23, 4)
  with zipfile.ZipFile(tmp_path / 'images.zip', 'w') as archive:
    for number, image in enumerate(images):
      folder = 'Train' if number < 20 else 'Test'
      archive.writestr(separator.join(('all', folder, f'{number:02}.png')), pictures.png(image))
  corpus = pictures.open_folder(tmp_path / 'images.zip', tmp_path / 'cache', 4)
  for split, part in (('train', images[:19]), ('valid', images[19:20]), ('test', images[20:])):
    pictures.assert_split(corpus, split, part)
  assert '23 images; train, test as files and folders are named, valid is the last 1 images of train' in corpus.summary


def test_a_class_named_train_is_not_a_split(tmp_path):
  for name in 'bus', 'car', 'train':
    pictures.write_folder(tmp_path / 'images' / name, pictures.random_images(4, 4))
  corpus = pictures.open_folder(tmp_path / 'images', tmp_path / 'cache', 4)
  assert sum(len(corpus.split(split)) for split in ('train', 'valid', 'test')) == 12 * 48


def test_older_runs_keep_their_split_rule():
  text = "ByteCorpus.path = 'x'\nfit.corpus = @ByteCorpus()\n"
  assert run_config.of_older_versions(text) == ["ByteCorpus.splits = 'shared'"]
  assert not run_config.of_older_versions(text + "ByteCorpus.splits = 'named'\n")
  assert not run_config.of_older_versions('fit.corpus = @Enwik8()')


def test_runs_record_their_split_rule_and_print_it_once(tmp_path, capsys):
  path = texts(tmp_path / 'texts', **{'train.txt': bytes(range(97, 122)) * 9, 'valid.txt': b'abcdefgh' * 9})
  runs.run(tmp_path / 'run', f"ByteCorpus.path = '{path}'", 'n_steps = 2', 'warmup_steps = 1')
  assert "ByteCorpus.splits = 'named'" in (pathlib.Path(tmp_path) / 'run' / 'config.gin').read_text()
  assert capsys.readouterr().err.count('2 files, 297 bytes; train, valid as files and folders are named') == 1
