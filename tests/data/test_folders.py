"""Folders as users have them: links, packed texts, and pictures as viewers show them."""

import bz2
import gzip
import lzma
import os
import pickle

import numpy as np
from PIL import Image
import pytest

import trax_hourglass as th
from trax_hourglass.data import folders


def everything(corpus):
  """Returns the tokens of all splits, one behind the other."""
  return b''.join(np.asarray(split.read(0, len(split))).astype(np.uint8).tobytes()
                  for split in map(corpus.split, ('train', 'valid', 'test')))


def test_links_are_followed_and_end(tmp_path):
  root, elsewhere = tmp_path / 'root', tmp_path / 'elsewhere'
  (root / 'a' / 'b').mkdir(parents=True)
  (elsewhere / 'deep').mkdir(parents=True)
  for path in root / 'a' / 'x', elsewhere / 'y', elsewhere / 'deep' / 'z', root / '.hidden', elsewhere / '.git':
    path.write_text('text')
  (root / 'linked').symlink_to(elsewhere)
  (root / 'file').symlink_to(elsewhere / 'y')
  (root / 'a' / 'b' / 'up').symlink_to(root)  # To a folder that it lies in.
  (elsewhere / 'back').symlink_to(root / 'a')
  (root / 'broken').symlink_to(tmp_path / 'nothing')
  assert folders.files_below(root) == ['a/x', 'file', 'linked/back/x', 'linked/deep/z', 'linked/y']


@pytest.mark.parametrize('pack', [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize('in_folder', [False, True])
def test_packed_texts_are_their_text_whatever_their_names(tmp_path, monkeypatch, pack, in_folder):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  (tmp_path / 'texts').mkdir()
  (tmp_path / 'texts' / 'some.txt').write_bytes(pack(b'packed ' * 900))
  (tmp_path / 'texts' / 'plain').write_bytes(b'plain ')
  path = tmp_path / 'texts' if in_folder else tmp_path / 'texts' / 'some.txt'
  for _ in range(2):  # The second time from the cache.
    assert everything(th.ByteCorpus(str(path))) == b'plain ' * in_folder + b'packed ' * 900


def test_packed_text_that_is_cut_off(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  (tmp_path / 'text').write_bytes(gzip.compress(os.urandom(5000))[:-900])
  with pytest.raises(ValueError, match="text' is damaged or cut off"):
    th.ByteCorpus(str(tmp_path / 'text'))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_pictures_are_turned_as_their_exif_says(tmp_path, orientation):
  upright = np.zeros((16, 16, 3), np.uint8)
  upright[:8, :8], upright[8:, :8] = 255, 128
  undone = {1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
            5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
            8: lambda x: np.rot90(x, -1)}[orientation](upright)
  image = Image.fromarray(np.ascontiguousarray(undone))
  exif = image.getexif()
  exif[0x0112] = orientation
  (tmp_path / 'images').mkdir()
  for number in range(3):
    image.save(tmp_path / 'images' / f'{number}.png', exif=exif)
  corpus = th.ImageFolder(str(tmp_path / 'images'), 16, cache_dir=str(tmp_path / 'cache'))
  np.testing.assert_array_equal(np.frombuffer(everything(corpus), np.uint8).reshape(3, 16, 16, 3), [upright] * 3)


@pytest.mark.parametrize('corrupt', ['error', 'skip'])
def test_a_picture_that_is_too_large_is_called_that(tmp_path, monkeypatch, corrupt):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  (tmp_path / 'images').mkdir()
  for number, side in enumerate((4, 4, 4, 12)):
    Image.new('RGB', (side, side)).save(tmp_path / 'images' / f'{number}.png')
  corpus = th.ImageFolder(str(tmp_path / 'images'), 4, corrupt=corrupt, cache_dir=str(tmp_path / 'cache'))
  with pytest.raises(ValueError, match="3.png' is too large: it has more than 100 pixels; scale it down"):
    everything(corpus)


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('key', ['data', b'data'])
def test_own_subsets_of_cifar10_of_any_protocol(tmp_path, protocol, key):
  rows = np.random.RandomState(0).randint(0, 256, (12, 3072)).astype(np.uint8)
  (tmp_path / 'mine').write_bytes(pickle.dumps({key: rows, 'labels': [3] * 12}, protocol=protocol))
  corpus = th.Cifar10(str(tmp_path / 'mine'), n_valid=2, cache_dir=str(tmp_path / 'cache'))
  assert (len(corpus.split('train')), len(corpus.split('valid'))) == (10 * 3072, 2 * 3072)


def test_cifar100_is_named(tmp_path):
  (tmp_path / 'train').write_bytes(pickle.dumps({'data': np.zeros((9, 3072), np.uint8), 'fine_labels': [99] * 9}))
  with pytest.raises(ValueError, match='is of CIFAR-100: give files of CIFAR-10'):
    th.Cifar10(str(tmp_path / 'train'), n_valid=2, cache_dir=str(tmp_path / 'cache')).split('train')
