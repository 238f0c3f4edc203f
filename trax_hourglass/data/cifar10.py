"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 x 32, in its binary or python version or by TFDS.

Both versions hold planes, all R, then all G, then all B; tokens are pixel by pixel, see images.py.
"""

import functools
import hashlib
import os
import pathlib

import numpy as np

from trax_hourglass import trax_files
from trax_hourglass.data import cache
from trax_hourglass.data import images
from trax_hourglass.data import tfds_source
from trax_hourglass.data.corpus import Corpus

_SIZE = 32
_ROW = 1 + 3 * _SIZE * _SIZE  # Bytes of an image in the binary version, its label first.
_CLASSES = 10
_PICKLE = b'\x80'  # First byte; that of the binary version is a label.
_SUBFOLDERS = ('', 'cifar-10-batches-bin', 'cifar-10-batches-py')
# Of the binary version's files, all of 10,000 images. The test batch was not at hand.
_SHA1 = {
    'data_batch_1.bin': 'aadd24acce27caa71bf4b10992e9e7b2d74c2540',
    'data_batch_2.bin': 'c0ba65cce70568cd57b4e03e9ac8d2a5367c1795',
    'data_batch_3.bin': '1dd00a74ab1d17a6e7d73e185b69dbf31242f295',
    'data_batch_4.bin': 'aab85764eb3584312d3c7f65fd2fd016e36a258e',
    'data_batch_5.bin': '26e2849e66a845b7f1e4614ae70f4889ae604628',
}
_BATCH_BYTES = 10_000 * _ROW


class Cifar10(Corpus):
  """CIFAR-10; valid is cut from the end of the training images."""

  def __init__(self, path=None, n_valid=5000, data_dir=None, cache_dir=None):
    """Finds the files.

    Args:
      path: a folder with data_batch_1.bin .. 5 and test_batch.bin (or the same without .bin, the python version), or one
        such file; some of them are enough. None takes them from TFDS.
      n_valid: images at the end of the training images that are valid and not train. 0 trains on all 50,000, and valid is
        then the test images, as in the authors' configs.
      data_dir: TFDS's folder; None for TFDS's own choice.
      cache_dir: folder of the cache; None for the one of `cache.folder`.

    Raises:
      ValueError: there are no such files, or n_valid is not a number of images. Asking for a split: a file is damaged or
        another, or the cache cannot be written.
    """
    if not isinstance(n_valid, int) or n_valid < 0:
      raise ValueError(f'n_valid is {n_valid!r}: give a number of images, or 0')
    arrays, key = _from_tfds(data_dir) if path is None else _from_files(pathlib.Path(path).expanduser())

    @functools.cache
    def flat(which):
      file = cache.folder(cache_dir) / f'cifar10-{which}-{key}'
      images.flat_file(file, arrays[which], _SIZE, f'CIFAR-10 {which}')
      return file

    def train_or_valid(name):
      whole = images.part(flat('train'), _SIZE)
      n_train = len(whole) // whole.example_length - n_valid
      if n_train < 1:
        raise ValueError(f'n_valid is {n_valid:,} of {n_train + n_valid:,} training images: none are left to train on')
      first, n = (0, n_train) if name == 'train' else (n_train, n_valid)
      return images.part(flat('train'), _SIZE, first, n)

    def test():
      return images.part(flat('test'), _SIZE)

    splits = {}
    if 'train' in arrays:
      splits['train'] = lambda: train_or_valid('train')
      if n_valid:
        splits['valid'] = lambda: train_or_valid('valid')
    if 'test' in arrays:
      splits['test'] = test
      if not n_valid:
        splits['valid'] = test
    no_test = f'{str(path)!r} holds no test_batch; add it to the others'
    no_train = f'{str(path)!r} holds no data_batch files; give the folder of the others'
    missing = {'train': no_train, 'valid': no_train if n_valid else f'n_valid is 0, so it is the test images, and {no_test}',
               'test': no_test}
    super().__init__('CIFAR-10', splits, 'dim', missing=missing)


def _from_tfds(data_dir):
  """Returns {'train', 'test': function that yields arrays}, and what the result depends on."""
  made = tfds_source.builder('cifar10', data_dir)
  by_hand = "fetch the binary version from https://www.cs.toronto.edu/~kriz/cifar.html and give Cifar10.path = 'FOLDER'"

  def arrays(split):
    for image in tfds_source.examples(made, split, 'image', by_hand):
      yield image[None]

  return {split: functools.partial(arrays, split) for split in ('train', 'test')}, cache.fingerprint([], str(made.data_dir))


def _from_files(path):
  """The same from files."""
  if not path.exists():
    raise ValueError(f'CIFAR-10: {str(path)!r} does not exist: give a folder or a file')
  found = [path] if path.is_file() else _batches(path)
  if not found:
    raise ValueError(f'CIFAR-10: {str(path)!r} holds no data_batch_1.bin .. 5 or test_batch.bin, nor those of the python '
                     'version: give the folder they are in')
  by_split = {'train': [f for f in found if not f.name.startswith('test')],
              'test': [f for f in found if f.name.startswith('test')]}

  def arrays(files):
    for file in files:
      with open(file, 'rb') as f:
        rows = _read_pickle(file) if f.read(1) == _PICKLE else _read_binary(file)
      yield images.from_planes(rows, _SIZE)

  return ({split: functools.partial(arrays, files) for split, files in by_split.items() if files},
          cache.fingerprint(found))


def _batches(folder):
  """Returns the files of one version, the training batches in order."""
  for subfolder in _SUBFOLDERS:
    for end in ('.bin', ''):
      names = [*(f'data_batch_{i}{end}' for i in range(1, 6)), f'test_batch{end}']
      if found := [folder / subfolder / name for name in names if (folder / subfolder / name).is_file()]:
        return found
  return []


def _read_binary(file):
  """Returns uint8 (N, 3072) of a file of the binary version."""
  content = np.fromfile(file, np.uint8)
  known = _SHA1.get(file.name)
  if known and content.size == _BATCH_BYTES and (found := hashlib.sha1(content).hexdigest()) != known:
    raise ValueError(f'{str(file)!r} is damaged: its sha1 is {found}, that of CIFAR-10 is {known}; fetch it again')
  if not content.size or content.size % _ROW:
    raise ValueError(f'{str(file)!r} has {content.size:,} bytes, no multiple of {_ROW} (a label and 3 x 32 x 32 colours): '
                     'it is cut off, or no file of CIFAR-10')
  rows = content.reshape(-1, _ROW)
  if (highest := rows[:, 0].max()) >= _CLASSES:
    raise ValueError(f'{str(file)!r} has the label {highest} where CIFAR-10 has 0 .. {_CLASSES - 1}: it is no file of '
                     'CIFAR-10 in its binary version')
  return rows[:, 1:]


def _read_pickle(file):
  """Returns uint8 (N, 3072) of a file of the python version, without running anything it names."""
  contents = trax_files.unpickle(file, file.read_bytes(), encoding='bytes')
  rows = contents.get(b'data') if isinstance(contents, dict) else None
  if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (_ROW - 1,):
    raise ValueError(f'{str(file)!r} holds no uint8 array of {_ROW - 1} columns named data: it is no file of CIFAR-10 '
                     'in its python version')
  return rows
