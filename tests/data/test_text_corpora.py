"""Tests enwik8 and similar corpora from every form of file, and Wiki-40B, with tiny texts in place of the real ones."""

import dataclasses
import os
import struct
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tests.helpers import texts

import trax_hourglass as th
from trax_hourglass.data import cache
from trax_hourglass.data import corpus as corpora
from trax_hourglass.data import enwik8
from trax_hourglass.data import tfds_source
from trax_hourglass.data import wiki40b


@pytest.mark.parametrize('kind', ['raw', 'zip', 'gz', 'xz'])
def test_every_file_form_gives_the_same_corpus(tmp_path, kind):
  path = texts.packed(tmp_path, kind)
  for _ in range(2):  # The second pass reads the cache.
    corpus = texts.open_corpus(str(path), tmp_path)
    assert [texts.read(corpus, split) for split in corpora.SPLITS] == [texts.TRAIN, texts.VALID, texts.CONTENT[9_500:]]
    assert (corpus.name, corpus.unit, corpus.vocab_size) == ('tiny8', 'byte', 256)
  assert len(texts.left(tmp_path)) == (kind != 'raw')


def test_cache_tells_files_of_equal_name_apart(tmp_path):
  texts.open_corpus(texts.packed(tmp_path, 'xz'), tmp_path)
  assert len(texts.open_corpus(texts.packed(tmp_path, 'xz', texts.CONTENT[:9_500]), tmp_path)._makers) == 2 and len(
      texts.left(tmp_path)) == 2


@pytest.mark.parametrize('kind', ['raw', 'xz'])
def test_a_partial_file_gives_only_its_complete_splits(tmp_path, kind):
  corpus = texts.open_corpus(texts.packed(tmp_path, kind, texts.CONTENT[:9_500]), tmp_path)
  assert texts.read(corpus, 'train') == texts.TRAIN and texts.read(corpus, 'valid') == texts.VALID
  with pytest.raises(ValueError, match=r"tiny8 has no test split: '.*' holds the first 9,500 bytes only, that is train "
                                       r"and "
                                       'valid; give the whole file of 10,000 bytes'):
    corpus.split('test')
  with pytest.raises(ValueError, match="split 'dev' does not exist: choose one of train, valid, test"):
    corpus.split('dev')


def spoilt(at):
  return texts.CONTENT[:at] + bytes([texts.CONTENT[at] ^ 1]) + texts.CONTENT[at + 1:]


@pytest.mark.parametrize('kind', ['raw', 'zip', 'gz', 'xz'])
@pytest.mark.parametrize('content, message', [
    (spoilt(100), 'is not the train split of tiny8: its sha256 is'), (spoilt(9_100), 'is not the valid split of tiny8'),
    (spoilt(9_600), 'is not tiny8: its sha1 is'), (spoilt(9_100)[:9_500], 'is not the valid split of tiny8'),
    (b'PRIMITIVE' + texts.CONTENT, "begins with b'PRIMITIVE.*so it does not hold tiny8, which begins with b'<begin>'"),
    (texts.CONTENT[:9_499], r'holds 9,499 bytes, and tiny8 has 10,000; also taken are its first 9,000 \(train\), 9,500 '
                            r'\(train '),
    (texts.CONTENT + b'x', 'holds more than the 10,000 bytes of tiny8'), (b'', 'holds 0 bytes, and tiny8 has 10,000'),
])
def test_wrong_content_is_refused_and_not_cached(tmp_path, kind, content, message):
  with pytest.raises(ValueError, match=message):
    texts.open_corpus(texts.packed(tmp_path, kind, content), tmp_path)
  assert not texts.left(tmp_path)


@pytest.mark.parametrize('kind', ['zip', 'gz', 'xz'])
def test_truncated_and_damaged_archives_are_refused(tmp_path, kind):
  path = texts.packed(tmp_path, kind)
  whole = path.read_bytes()
  for content in (whole[:-30], whole[:len(whole) // 2], whole[:3000] + bytes(100) + whole[3100:]):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'some\.\w+. is damaged or cut off \(.*\): fetch it again'):
      texts.open_corpus(path, tmp_path)
  assert not texts.left(tmp_path)


def test_corpus_is_found_by_name_in_a_zip_of_several_files(tmp_path):
  texts.zipped(tmp_path / 'named.zip', readme=b'no', tiny8=texts.CONTENT)
  assert texts.read(texts.open_corpus(tmp_path / 'named.zip', tmp_path), 'train') == texts.TRAIN
  texts.zipped(tmp_path / 'unnamed.zip', readme=b'no', other=texts.CONTENT)
  texts.zipped(tmp_path / 'empty.zip')
  with pytest.raises(ValueError, match=r"has 2 files \(readme, other\), where one is wanted, or one named 'tiny8'"):
    texts.open_corpus(tmp_path / 'unnamed.zip', tmp_path)
  with pytest.raises(ValueError, match=r'has 0 files \(none\)'):
    texts.open_corpus(tmp_path / 'empty.zip', tmp_path)


def test_folders_and_missing_files_are_refused(tmp_path):
  with pytest.raises(ValueError, match='is a folder: give a file'):
    texts.open_corpus(tmp_path, tmp_path)
  with pytest.raises(ValueError, match=r'cannot be read \(No such file or directory\)'):
    texts.open_corpus(tmp_path / 'none', tmp_path)


def test_text_outside_the_alphabet_is_refused(tmp_path):
  letters = dataclasses.replace(texts.PUBLICATION, alphabet=b'<begin>', split_sha256={})
  with pytest.raises(ValueError, match=r'holds the byte .*, which tiny8 does not'):
    texts.open_corpus(texts.packed(tmp_path, 'raw'), tmp_path, letters)
  assert enwik8.TEXT8.ends == enwik8.ENWIK8.ends == [90_000_000, 95_000_000, 100_000_000]
  assert len(set(enwik8.TEXT8.alphabet)) == 27
  for corpus in (th.Enwik8, th.Text8):  # The real corpora refuse the stand-in.
    with pytest.raises(ValueError, match="begins with b'<begin>"):
      corpus(texts.packed(tmp_path, 'raw'))


def test_a_full_disk_leaves_no_partial_cache_file(tmp_path):
  path = texts.packed(tmp_path, 'xz')
  with texts.limited_files(5_000), pytest.raises(ValueError, match=r'cannot write .*tiny8-\w+ \(File too large\): free '
                                                                   r'or grant '
                                                             'space there, or choose another folder by'):
    texts.open_corpus(path, tmp_path)
  assert not texts.left(tmp_path)
  assert texts.read(texts.open_corpus(path, tmp_path), 'train') == texts.TRAIN


def test_an_unwritable_cache_is_an_error(tmp_path, monkeypatch):
  (tmp_path / 'cache').write_text('a file')
  with pytest.raises(ValueError, match=r'cannot write .*cache/tiny8-\w+ \(File exists\)'):
    texts.open_corpus(texts.packed(tmp_path, 'xz'), tmp_path)
  (tmp_path / 'there/f.unfinished').mkdir(parents=True)
  with pytest.raises(ValueError, match=r'cannot write .*there/f \(Is a directory\): free or grant space'):
    cache.build(tmp_path / 'there/f', lambda: [texts.CONTENT], 'f')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'elsewhere'))
  assert cache.folder() == tmp_path / 'elsewhere/trax_hourglass'
  monkeypatch.delenv('XDG_CACHE_HOME')
  assert cache.folder().as_posix().endswith('/.cache/trax_hourglass') and cache.folder('here').name == 'here'


def test_concurrent_readers_build_a_cache_file_once(tmp_path):
  calls, contents, barrier = [], [], threading.Barrier(4)

  def chunks():
    calls.append(1)
    yield from (texts.CONTENT[:5_000], texts.CONTENT[5_000:])

  def want():
    barrier.wait()
    contents.append(cache.build(tmp_path / 'cache/f', chunks, 'f').read_bytes())

  threads = [threading.Thread(target=want) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert contents == [texts.CONTENT] * 4 and len(calls) == 1 and texts.left(tmp_path) == ['f']


def test_wiki40b_is_the_concatenation_of_its_articles(tmp_path):
  with tfds.testing.mock_data(num_examples=5):
    made = tfds.builder('wiki40b/en')
    corpus = wiki40b.Wiki40b(cache_dir=tmp_path)
    for ours, theirs in (('train', 'train'), ('valid', 'validation'), ('test', 'test')):
      articles = [example['text'] for example in tfds.as_numpy(made.as_dataset(split=theirs))]
      assert texts.read(corpus, ours) == b''.join(articles) and len(articles) == 5
  assert (corpus.name, corpus.unit, corpus.vocab_size) == ('wiki40b/en', 'byte', 256)
  with tfds.testing.mock_data(num_examples=1):  # The cached text is used instead of this.
    assert texts.read(wiki40b.Wiki40b(cache_dir=tmp_path), 'test') == b''.join(articles)


def field(number, content):
  """Returns an encoded protocol-buffer field of bytes, a float or a small whole number."""
  if isinstance(content, bytes):
    return bytes([number << 3 | 2, len(content)]) + content
  if isinstance(content, float):
    return bytes([number << 3 | 5]) + struct.pack('<f', content)
  return bytes([number << 3, content])


def sentencepiece_model(n_pieces):
  """Returns a SentencePiece model of single characters.

  Piece 0 is the unknown token and 1 a blank; then come a to z and private-use characters.
  """
  letters = ['\u2581', *'abcdefghijklmnopqrstuvwxyz']
  pieces = ['<unk>', *letters, *(chr(0xe000 + i) for i in range(n_pieces - 1 - len(letters)))]
  kinds = [2, *[1] * (len(pieces) - 1)]
  body = b''.join(
      field(1,
            field(1, piece.encode()) + field(2, -1.0) + field(3, kind)) for piece, kind in zip(pieces, kinds))
  return body + field(2, field(3, 1)) + field(3, field(1, b'identity') + field(3, 0) + field(4, 0))


@pytest.mark.parametrize('n_pieces, dtype', [(40, np.uint8), (300, np.uint16)])
def test_wiki40b_is_tokenized_by_sentencepiece(tmp_path, n_pieces, dtype):
  (tmp_path / 'letters.model').write_bytes(sentencepiece_model(n_pieces))
  with tfds.testing.mock_data(num_examples=5):
    text = texts.read(wiki40b.Wiki40b(cache_dir=tmp_path), 'train').decode()
    corpus = wiki40b.Wiki40b(sentencepiece=str(tmp_path / 'letters.model'), cache_dir=tmp_path)
    data = corpus.split('train')
  tokens = data.read(0, len(data))
  assert (corpus.unit, corpus.vocab_size, tokens.dtype) == ('token', n_pieces, dtype)
  assert ''.join('? abcdefghijklmnopqrstuvwxyz'[token] for token in tokens) == text
  np.testing.assert_array_equal(data.read(3, 4), tokens[3:7])
  for content, message in ((b'no model', 'is not a SentencePiece model'), (None, 'cannot be read')):
    (tmp_path / 'bad.model').write_bytes(content) if content else (tmp_path / 'bad.model').unlink()
    with pytest.raises(ValueError, match=message):
      wiki40b.Wiki40b(sentencepiece=tmp_path / 'bad.model', cache_dir=tmp_path)


def test_unprepared_wiki40b_without_network_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(tfds_source, '_PROBE', 'http://127.0.0.1:1/')
  corpus = wiki40b.Wiki40b(data_dir=str(tmp_path / 'tfds'), cache_dir=tmp_path / 'cache')
  with pytest.raises(ValueError, match=r'TFDS has not prepared wiki40b/en/.* in .*tfds.* and cannot \(.*Connection '
                                       r'refused'
                                       r".*prepare it where there is a network.*Wiki40b\.data_dir = 'FOLDER'"):
    corpus.split('train')
  assert not texts.left(tmp_path) and not os.path.exists(tmp_path / 'tfds/wiki40b/en')


class Prepared(tfds.core.GeneratorBasedBuilder):
  """Provides 20 short texts without a download."""
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({'text': tfds.features.Text()}))

  def _split_generators(self, manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for number in range(20):
      yield number, {'text': f'text {number:02}'}


def test_damaged_or_missing_tfds_files_are_refused(tmp_path):
  made = Prepared(data_dir=tmp_path)
  made.download_and_prepare()
  read_all = lambda: [text.decode() for text in tfds_source.examples(made, 'train', 'text', 'prepare it')]
  assert sorted(read_all()) == [f'text {number:02}' for number in range(20)]
  file, = tmp_path.rglob('*.tfrecord*')
  whole = file.read_bytes()
  record = len(whole) // 20
  for content in (whole[:-5], whole[:-record], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], b'', None):
    if content is None:
      file.unlink()
    else:
      file.write_bytes(content)
    with pytest.raises(ValueError, match=r"the split train of TFDS in '.*prepared/1\.0\.0' cannot be read \([^{]*\): "
                                         'a file of it is damaged or missing, remove'):
      read_all()
