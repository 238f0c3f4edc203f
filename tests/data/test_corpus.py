"""Tests corpora and batches: each byte is in one split, windows depend on seed and step only, errors are clear."""

import sysconfig

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from tests.helpers.corpora import Numbers

import trax_hourglass as th
from trax_hourglass.data import batches
from trax_hourglass.data import corpus as corpora


def all_bytes(data):
  return bytes(data.read(0, len(data)))


def test_file_is_split_by_position(tmp_path):
  content = bytes(range(200)) * 5
  (tmp_path / 'f').write_bytes(content)
  corpus = th.ByteCorpus(str(tmp_path / 'f'))
  splits = [all_bytes(corpus.split(name)) for name in corpora.SPLITS]
  assert b''.join(splits) == content and [len(s) for s in splits] == [900, 50, 50]


def test_small_folder_is_split_by_position_across_files(tmp_path):
  for i, n in enumerate((7, 0, 20, 3, 10)):
    (tmp_path / f'{i}').write_bytes(bytes([i + 1]) * n)
  (tmp_path / '.hidden').write_bytes(b'no')
  corpus = th.ByteCorpus(str(tmp_path))
  whole = b''.join(all_bytes(corpus.split(name)) for name in corpora.SPLITS)
  assert whole == b'\1' * 7 + b'\3' * 20 + b'\4' * 3 + b'\5' * 10
  assert [len(corpus.split(name)) for name in corpora.SPLITS] == [36, 2, 2]


def test_split_of_a_file_does_not_depend_on_the_others(tmp_path):
  for i in range(150):
    (tmp_path / f'{i:03}.txt').write_bytes(b'%03d,' % i)

  def files(name):
    text = all_bytes(th.ByteCorpus(str(tmp_path)).split(name)).decode()
    return set(text.split(',')) - {''}

  before = {name: files(name) for name in corpora.SPLITS}
  assert sum(map(len, before.values())) == 150 and len(before['train']) > 100 and before['valid'] and before['test']
  (tmp_path / '007.txt').unlink()
  (tmp_path / 'new.txt').write_bytes(b'new,')
  for name, old in before.items():
    assert files(name) - {'new'} == old - {'007'}


def test_default_corpus_is_the_standard_library_without_tests():
  corpus = th.ByteCorpus()
  train, valid = (corpus.split(name) for name in ('train', 'valid'))
  assert len(train) > 5e6 and 0.01 < len(valid) / len(train) < 0.2
  files = [str(file) for name in corpora.SPLITS for file, _, _ in corpus.split(name)._stretches]
  assert len(files) == len(set(files)) and all(f.startswith(sysconfig.get_path('stdlib')) for f in files)
  assert not any('/test/' in f or 'site-packages' in f for f in files)


@given(st.data())
def test_reads_across_files_equal_the_concatenation(tmp_path_factory, data):
  folder = tmp_path_factory.mktemp('files')
  pieces = data.draw(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=6))
  stretches = []
  for i, piece in enumerate(pieces):
    before = data.draw(st.binary(max_size=3))
    (folder / f'{i}').write_bytes(before + piece + b'after')
    stretches.append((folder / f'{i}', len(before), len(piece)))
  whole, tokens = b''.join(pieces), corpora.Tokens(stretches)
  start = data.draw(st.integers(0, len(whole)))
  length = data.draw(st.integers(0, len(whole) - start))
  assert len(tokens) == len(whole) and bytes(tokens.read(start, length)) == whole[start:start + length]
  with pytest.raises(ValueError, match='not all within'):
    tokens.read(start, len(whole) - start + 1)


def test_windows_depend_on_seed_and_step_only():
  def take(seed, first):
    stream = batches.RandomWindows(Numbers(200), 3, 10, seed, 256)
    stream.step = first
    return [next(stream)[0] for _ in range(4)]

  whole = take(0, 0)
  np.testing.assert_array_equal(whole[2:], take(0, 2)[:2])
  assert not np.array_equal(whole, take(1, 0))
  assert not np.array_equal(whole[0], whole[1])
  assert (np.diff(np.stack(whole), axis=-1) == 1).all()  # Each window holds consecutive tokens.
  tokens, targets, weights = next(batches.RandomWindows(Numbers(200), 3, 10, 0, 256))
  np.testing.assert_array_equal(tokens, targets)
  assert weights.sum() == 30 and tokens.dtype == np.int32


def test_windows_reach_both_ends():
  stream = batches.RandomWindows(Numbers(12), 8, 10, 0, 256)
  starts = {int(row[0]) for _ in range(20) for row in next(stream)[0]}
  assert starts == {0, 1, 2}


@given(batch=st.integers(1, 4), n_hosts=st.integers(1, 3), step=st.integers(0, 9))
def test_host_batches_concatenate_to_the_single_host_batch(batch, n_hosts, step):
  def take(host, n_hosts_):
    stream = batches.RandomWindows(Numbers(200), batch * n_hosts, 10, 0, 256, host, n_hosts_)
    stream.step = step
    return next(stream)[0]

  np.testing.assert_array_equal(np.concatenate([take(host, n_hosts) for host in range(n_hosts)]), take(0, 1))


@pytest.mark.parametrize('content, message', [(b'', '0 bytes'), (b'x', '1 bytes'), (b'xy', '2 bytes')])
def test_tiny_corpora_are_refused(tmp_path, content, message):
  (tmp_path / 'f').write_bytes(content)
  with pytest.raises(ValueError, match=message):
    th.ByteCorpus(str(tmp_path / 'f'))


def test_invalid_corpus_and_window_settings_are_refused():
  with pytest.raises(ValueError, match='does not exist'):
    th.ByteCorpus('/no/such/file')
  with pytest.raises(ValueError, match='train, valid, test'):
    th.ByteCorpus().split('dev')
  with pytest.raises(ValueError, match='longer than the training data'):
    batches.RandomWindows(Numbers(9), 1, 10, 0, 256)
  with pytest.raises(ValueError, match='batch size 3 does not divide among 2 hosts'):
    batches.RandomWindows(Numbers(99), 3, 10, 0, 256, host=0, n_hosts=2)
  for sizes in ((0, 10), (1, 0), (1, -1), (1.5, 2)):
    with pytest.raises(ValueError, match='whole number above 0'):
      batches.RandomWindows(Numbers(99), *sizes, 0, 256)
  with pytest.raises(ValueError, match='outside the vocabulary 0 .. 99'):
    next(batches.RandomWindows(Numbers(200), 8, 100, 0, 100))
