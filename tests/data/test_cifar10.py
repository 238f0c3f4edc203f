"""Tests CIFAR-10: both published versions give the same bytes, and errors name the defect of a file."""

import os
import pickle
import shutil
import struct

import numpy as np
import pytest

from trax_hourglass.data import cifar10
from tests.helpers.pictures import TEST
from tests.helpers.pictures import TRAIN
from tests.helpers.pictures import assert_split
from tests.helpers.pictures import planes
from tests.helpers.pictures import random_images
from tests.helpers import pictures


@pytest.fixture
def small_cifar10(monkeypatch):
  """Disables the checksums of files with the published names."""
  monkeypatch.setattr(cifar10, '_PUBLISHED', {})


def python2_pickle(rows):
  """Returns the pickle that Python 2 with its NumPy wrote for {'data': rows, 'labels': [...]}."""
  def string(text):
    return b'U' + bytes([len(text)]) + text

  minus_1 = b'J' + struct.pack('<i', -1)
  dtype = b'cnumpy\ndtype\n' + string(b'u1') + b'K\x00K\x01\x87R(K\x03' + string(
      b'|') + b'NNN' + 2 * minus_1 + b'K\x00tb'
  array = (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85' + string(b'b') + b'\x87R(K\x01'
           + b''.join(b'J' + struct.pack('<i', n) for n in rows.shape) + b'\x86' + dtype + b'\x89T'
           + struct.pack('<i', rows.size) + rows.tobytes() + b'tb')
  return b'\x80\x02}(' + string(b'data') + array + string(b'labels') + b'](' + b'K\x07' * len(rows) + b'eu.'


def write_python(folder, n_first=4):
  for name, images in (('data_batch_1', TRAIN[:n_first]), ('data_batch_2', TRAIN[n_first:]), ('test_batch', TEST)):
    (folder / name).write_bytes(python2_pickle(planes(images)))


@pytest.mark.parametrize('write, subfolder',
                         [(pictures.write_binary, ''), (pictures.write_binary, 'cifar-10-batches-bin'),
                          (write_python, ''),
                                              (write_python, 'cifar-10-batches-py')])
def test_cifar10_is_read_from_a_folder(tmp_path, small_cifar10, write, subfolder):
  (tmp_path / subfolder).mkdir(exist_ok=True)
  write(tmp_path / subfolder)
  for _ in range(2):  # The second pass reads the cache.
    corpus = cifar10.Cifar10(str(tmp_path), n_valid=2, cache_dir=tmp_path / 'cache')
    for split, images in (('train', TRAIN[:5]), ('valid', TRAIN[5:]), ('test', TEST)):
      assert_split(corpus, split, images)
  corpus = cifar10.Cifar10(tmp_path, n_valid=0, cache_dir=tmp_path / 'cache')
  for split, images in (('train', TRAIN), ('valid', TEST), ('test', TEST)):
    assert_split(corpus, split, images)


@pytest.mark.parametrize('write', [pictures.write_binary, write_python])
@pytest.mark.parametrize('form', ['cifar-10.tar.gz', 'cifar-10.zip', 'in a folder'])
def test_cifar10_is_read_from_an_archive(tmp_path, small_cifar10, write, form):
  (tmp_path / 'files' / 'cifar-10-batches').mkdir(parents=True)
  write(tmp_path / 'files' / 'cifar-10-batches')
  (tmp_path / 'files' / 'cifar-10-batches' / 'readme.html').write_text('read me')
  (tmp_path / 'data').mkdir()
  kind = 'zip' if form.endswith('zip') else 'gztar'
  path = shutil.make_archive(str(tmp_path / 'data' / 'cifar-10'), kind, tmp_path / 'files')
  path = tmp_path / 'data' if form == 'in a folder' else path
  corpus = cifar10.Cifar10(path, n_valid=2, cache_dir=tmp_path / 'cache')
  for split, images in (('train', TRAIN[:5]), ('valid', TRAIN[5:]), ('test', TEST)):
    assert_split(corpus, split, images)
  assert 'train, valid, test; valid is the last 2 training images' in corpus.summary


@pytest.mark.parametrize('names', [('train', 'test', 'meta'), ('train.bin', 'test.bin', 'fine_label_names.txt')])
@pytest.mark.parametrize('packed', [False, True])
def test_cifar100_folders_and_archives_are_refused(tmp_path, names, packed):
  for name in names:
    (tmp_path / 'files' / 'of it').mkdir(parents=True, exist_ok=True)
    (tmp_path / 'files' / 'of it' / name).write_bytes(bytes(3074))
  path = shutil.make_archive(str(tmp_path / 'cifar'), 'gztar', tmp_path / 'files') if packed else tmp_path / 'files'
  with pytest.raises(ValueError, match='holds CIFAR-100: give files of CIFAR-10'):
    cifar10.Cifar10(path, cache_dir=tmp_path / 'cache')
  with pytest.raises(ValueError, match="of it/t.*' holds CIFAR-100 in its binary version"):
    cifar10.Cifar10(tmp_path / 'files' / 'of it' / names[0], n_valid=0, cache_dir=tmp_path / 'cache').split('train')


def test_image_tokens_are_ordered_pixel_by_pixel(tmp_path, small_cifar10):
  """Tokens are interleaved by pixel, whereas the file stores three colour planes.

  Row 1, column 2 of image 1 is the 3 tokens from 3072 + 3 (32 + 2) on.
  """
  pictures.write_binary(tmp_path)
  tokens = cifar10.Cifar10(tmp_path, 1, cache_dir=tmp_path / 'cache').split('train')
  file = (tmp_path / 'data_batch_1.bin').read_bytes()[3073 + 1:]
  assert tokens.read(3072 + 3 * 34, 3).tolist() == [file[34], file[1024 + 34], file[2048 + 34]]


@pytest.mark.parametrize('size', [16, 8, 1])
def test_downscaled_pixels_are_rounded_means_of_squares(tmp_path, small_cifar10, size):
  pictures.write_binary(tmp_path)
  # Each size has its own cached file.
  corpora = [cifar10.Cifar10(tmp_path, 2, size=s, cache_dir=tmp_path / 'cache') for s in (32, size)]
  assert_split(corpora[0], 'train', TRAIN[:5])
  tokens, side = corpora[1].split('train'), 32 // size
  assert tokens.example_length == 3 * size * size and len(tokens) == 5 * tokens.example_length
  small = tokens.read(0, len(tokens)).reshape(5, size, size, 3)
  for n, row, column, colour in np.random.default_rng(0).integers([5, size, size, 3], size=(20, 4)):
    square = TRAIN[n, row * side:(row + 1) * side, column * side:(column + 1) * side, colour]
    assert small[n, row, column, colour] == int(np.floor(np.mean(square) + 0.5))


@pytest.mark.parametrize('size', [0, 5, 64, 16.0, '16'])
def test_sizes_other_than_divisors_of_32_are_refused(tmp_path, size):
  with pytest.raises(ValueError, match='give 32, or 16'):
    cifar10.Cifar10(tmp_path, size=size)


def test_cifar10_is_read_from_a_single_file(tmp_path, small_cifar10):
  pictures.write_binary(tmp_path)
  corpus = cifar10.Cifar10(tmp_path / 'data_batch_1.bin', n_valid=1, cache_dir=tmp_path / 'cache')
  assert_split(corpus, 'train', TRAIN[:3])
  with pytest.raises(ValueError, match='CIFAR-10 has no test split: .*holds no test_batch; add it'):
    corpus.split('test')
  with pytest.raises(ValueError, match='CIFAR-10 has no valid split: n_valid is 0, so it is the test images, and'):
    cifar10.Cifar10(tmp_path / 'data_batch_1.bin', n_valid=0).split('valid')
  corpus = cifar10.Cifar10(tmp_path / 'test_batch.bin', cache_dir=tmp_path / 'cache')
  assert_split(corpus, 'test', TEST)
  with pytest.raises(ValueError, match='has no train split: .*holds no data_batch files'):
    corpus.split('train')


class Evil:

  def __reduce__(self):
    return os.mkdir, ('evil',)


@pytest.mark.parametrize('content, message', [
    (b'\x01' * 3000, 'has 3,000 bytes, no multiple of 3073'), (b'', 'has 0 bytes, no multiple'),
    (b'\x63' * 3073, 'has the label 99 where CIFAR-10 has 0 .. 9'),
    (pickle.dumps(Evil()), 'refused, it names posix.mkdir, and only numpy arrays and plain containers are read'),
    (python2_pickle(planes(TRAIN))[:-500], 'refused, '),
    (pickle.dumps({'a': 1}), 'holds no uint8 array of 3072 columns'),
    (python2_pickle(planes(random_images(2, 16))), 'holds no uint8 array of 3072 columns named data'),
])
def test_malformed_cifar10_files_are_refused(tmp_path, monkeypatch, content, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'another').write_bytes(content)
  with pytest.raises(ValueError, match=message):
    cifar10.Cifar10(tmp_path / 'another', 1, cache_dir=tmp_path / 'cache').split('train')
  assert not (tmp_path / 'evil').exists() and not [p for p in (tmp_path / 'cache').iterdir() if p.suffix != '.lock']


@pytest.mark.parametrize('name, content, message', [
    ('data_batch_2.bin', bytes(3073), 'has 3,073 bytes, that of CIFAR-10 30,730,000: fetch it again'),
    ('test_batch.bin', bytes(30_730_000), 'has the sha1 .*, that of CIFAR-10 67eb016d.*: fetch it again'),
    ('data_batch_5', python2_pickle(planes(TRAIN)), r'has 21,\d+ bytes, that of CIFAR-10 31,035,623: fetch it again'),
    ('test_batch', b'\x80' * 31_035_526, 'has the md5 .*, that of CIFAR-10 40351d58.*: fetch it again'),
])
def test_published_file_names_require_published_content(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=f"{name}' {message}"):
    cifar10.Cifar10(tmp_path, 1, cache_dir=tmp_path / 'cache').split('test' if name.startswith('test') else 'train')


def test_invalid_cifar10_settings_are_refused(tmp_path, small_cifar10):
  with pytest.raises(ValueError, match='does not exist: give a folder or a file'):
    cifar10.Cifar10(tmp_path / 'none')
  with pytest.raises(ValueError, match='holds no data_batch_1.bin .. 5 or test_batch.bin, nor those of the python '
                                       'version'):
    cifar10.Cifar10(tmp_path)
  with pytest.raises(ValueError, match='n_valid is -1'):
    cifar10.Cifar10(tmp_path, n_valid=-1)
  pictures.write_binary(tmp_path)
  with pytest.raises(ValueError, match='n_valid is 5,000 of 7 training images: none are left'):
    cifar10.Cifar10(tmp_path, cache_dir=tmp_path / 'cache').split('train')
