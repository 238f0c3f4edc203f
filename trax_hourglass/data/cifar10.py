"""Reads CIFAR-10 (Krizhevsky 2009), 50,000 training and 10,000 test images of 32 x 32, from files or through TFDS.

Files are of the binary or the python version. Both store colour planes, all R, then all G, then all B; tokens go pixel
by pixel, see image_tokens.py.
"""

import functools
import hashlib
import pathlib

import numpy as np

from trax_hourglass.data import archives
from trax_hourglass.data import cache
from trax_hourglass.data.corpus import Corpus
from trax_hourglass.data import image_tokens
from trax_hourglass.data import sources
from trax_hourglass.data import tfds_source
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import checks
from trax_hourglass.runtime import restricted_pickle

_SIZE = 32
_ROW = 1 + 3 * _SIZE * _SIZE  # Bytes of an image in the binary version, its label first.
_CLASSES = 10
_PICKLE = b'\x80', b'(', b'}'  # First bytes; files of the binary version begin with a label.
_ARCHIVES = '.tar.gz', '.tgz', '.tar', '.zip'
_OF_CIFAR100 = ({'train', 'test', 'meta'}, {'train.bin', 'test.bin', 'fine_label_names.txt'})
_ANOTHER = 'fetch it again, or give other images by a file with another name'
_BATCH_BYTES = 10_000 * _ROW
_PUBLISHED = {  # Bytes, algorithm and checksum of all files of both versions, of 10,000 images each.
    'data_batch_1.bin': (_BATCH_BYTES, 'sha1', 'aadd24acce27caa71bf4b10992e9e7b2d74c2540'),
    'data_batch_2.bin': (_BATCH_BYTES, 'sha1', 'c0ba65cce70568cd57b4e03e9ac8d2a5367c1795'),
    'data_batch_3.bin': (_BATCH_BYTES, 'sha1', '1dd00a74ab1d17a6e7d73e185b69dbf31242f295'),
    'data_batch_4.bin': (_BATCH_BYTES, 'sha1', 'aab85764eb3584312d3c7f65fd2fd016e36a258e'),
    'data_batch_5.bin': (_BATCH_BYTES, 'sha1', '26e2849e66a845b7f1e4614ae70f4889ae604628'),
    'test_batch.bin': (_BATCH_BYTES, 'sha1', '67eb016db431130d61cd03c7ad570b013799c88c'),
    'data_batch_1': (31_035_704, 'md5', 'c99cafc152244af753f735de768cd75f'),
    'data_batch_2': (31_035_320, 'md5', 'd4bba439e000b95fd0a9bffe97cbabec'),
    'data_batch_3': (31_035_999, 'md5', '54ebc095f3ab1f0389bbae665268c751'),
    'data_batch_4': (31_035_696, 'md5', '634d18415352ddfa80567beed471001a'),
    'data_batch_5': (31_035_623, 'md5', '482c414d41f54cd18b22e5b47cb7c3cb'),
    'test_batch': (31_035_526, 'md5', '40351d587109b95175f43aff81a1287e'),
}


class Cifar10(Corpus):
  """Holds CIFAR-10, with valid cut from the end of the training images."""
  unit = 'dim'

  def __init__(self, path=None, n_valid=5000, size=_SIZE, data_dir=None, cache_dir=None):
    """Finds the files.

    Args:
      path: a folder, an archive or a file; None takes the images from TFDS. A folder holds data_batch_1.bin .. 5 and
        test_batch.bin at any depth, or the same without .bin, the python version. Some of these files suffice, but they
        must be as published. An archive is cifar-10-binary.tar.gz, cifar-10-python.tar.gz or another one of these
        files. A file in either form may have any other name, and then any number of images.
      n_valid: number of images at the end of the training images that are valid instead of train. With 0, all 50,000
        are train, and valid is the test images, as in the authors' configs.
      size: side of the images in pixels: 32, or smaller by averages over squares of pixels, for models that a CPU can
        train. 16 gives 768 tokens. Bits of different sizes are not comparable.
      data_dir: TFDS's folder; None for TFDS's default.
      cache_dir: folder of the cache; None for the one of `cache.folder`.

    Raises:
      InputError: the files do not exist, n_valid is not a number of images, or 32 is no multiple of size. On access to
        a split: a file is damaged or not of CIFAR-10, or the cache cannot be written.
    """
    if not checks.is_whole(n_valid) or n_valid < 0:
      raise InputError(f'n_valid is {n_valid!r}: give a number of images, or 0')
    if not checks.is_whole(size) or size < 1 or _SIZE % size:
      raise InputError(f'size is {size!r}: give 32, or 16, 8, 4, 2 or 1 for images averaged down')
    arrays, key = _from_tfds(data_dir) if path is None else _from_files(pathlib.Path(path).expanduser())

    @functools.cache
    def flat(which):
      at_size = '' if size == _SIZE else f'-{size}x{size}'
      file = cache.folder(cache_dir) / f'cifar10-{which}-{key}{at_size}'
      image_tokens.flat_file(file, lambda: (image_tokens.averaged(some, size) for some in arrays[which]()), size,
                             f'CIFAR-10 {which}')
      return file

    def train_or_valid(name):
      whole = image_tokens.part(flat('train'), size)
      n_train = len(whole) // whole.example_length - n_valid
      if n_train < 1:
        raise InputError(f'n_valid is {n_valid:,} of {n_train + n_valid:,} training images: none are left to train on')
      first, n = (0, n_train) if name == 'train' else (n_train, n_valid)
      return image_tokens.part(flat('train'), size, first, n)

    def test():
      return image_tokens.part(flat('test'), size)

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
    no_valid = no_train if n_valid else f'n_valid is 0, so it is the test images, and {no_test}'
    missing = {'train': no_train, 'valid': no_valid, 'test': no_test}
    super().__init__('CIFAR-10', splits, missing=missing)
    valid = f'the last {n_valid:,} training images' if n_valid else 'the test images'
    self.summary = f'CIFAR-10 of {path or "TFDS"}: {", ".join(splits)}; valid is {valid}'


def _from_tfds(data_dir):
  """Returns {'train', 'test': function that yields arrays}, and a key of their source for the cache."""
  made = tfds_source.builder('cifar10', data_dir)
  by_hand = "fetch the binary version from https://www.cs.toronto.edu/~kriz/cifar.html and give Cifar10.path = 'FOLDER'"

  def arrays(split):
    for image in tfds_source.examples(made, split, 'image', by_hand):
      yield image[None]

  key = cache.fingerprint([], str(made.data_dir))
  return {split: functools.partial(arrays, split) for split in ('train', 'test')}, key


def _from_files(path):
  """Returns the same as `_from_tfds`, from files."""
  if not path.exists():
    raise InputError(f'CIFAR-10: {str(path)!r} does not exist: give a folder or a file')
  found, contents, files = _find(path)
  by_split = {'train': [name for name in found if not _base(name).startswith('test')],
              'test': [name for name in found if _base(name).startswith('test')]}

  def arrays(names):
    for name, content in contents(names):
      yield image_tokens.from_planes(_read(path / name if path.is_dir() else path, _base(name), content), _SIZE)

  return ({split: functools.partial(arrays, names) for split, names in by_split.items() if names},
          cache.fingerprint(files))


def _find(path):
  """Returns the names of batches, a function of names that yields (name, content), and the files on disk."""
  if path.is_file() and not sources.is_archive(path):
    return [path.name], lambda _: [(path.name, b''.join(archives.content(path)))], [path]
  source = sources.Folder(path) if path.is_dir() else sources.Archive(path)
  if found := _batches(source.names):
    return found, source.contents, [path / name for name in found] if path.is_dir() else [path]
  packed = [path / name for name in source.names if name.endswith(_ARCHIVES)] if path.is_dir() else []
  if len(packed) == 1:
    return _find(packed[0])
  if any(of_one <= set(map(_base, source.names)) for of_one in _OF_CIFAR100):
    raise InputError(f'{str(path)!r} holds CIFAR-100: give files of CIFAR-10')
  raise InputError(f'CIFAR-10: {str(path)!r} holds no data_batch_1.bin .. 5 or test_batch.bin, nor those of the '
                   'python version, nor one archive of them: give the folder they are in')


def _base(name):
  return name.rpartition('/')[-1]


def _batches(names):
  """Returns the names of one version's files, the training batches in order."""
  by_base = {_base(name): name for name in sorted(names, key=lambda name: -name.count('/'))}
  for end in ('.bin', ''):
    wanted = [*(f'data_batch_{i}{end}' for i in range(1, 6)), f'test_batch{end}']
    if found := [by_base[name] for name in wanted if name in by_base]:
      return found
  return []


def _read(file, name, content):
  """Returns uint8 (N, 3072) of a file of either version.

  Args:
    file: path of the file, for messages.
    name: name of the file, without folders.
    content: bytes of the file.

  Raises:
    InputError: the file is not of CIFAR-10, or differs from the published file of its name.
  """
  if name in _PUBLISHED:
    size, algorithm, known = _PUBLISHED[name]
    if len(content) != size:
      raise InputError(f'{str(file)!r} has {len(content):,} bytes, that of CIFAR-10 {size:,}: {_ANOTHER}')
    if (found := hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()) != known:
      raise InputError(f'{str(file)!r} has the {algorithm} {found}, that of CIFAR-10 {known}: {_ANOTHER}')
  return _read_pickle(file, content) if content.startswith(_PICKLE) else _read_binary(file, content)


def _read_binary(file, content):
  """Returns uint8 (N, 3072) of a file of the binary version."""
  content = np.frombuffer(content, np.uint8)
  if content.size and content.size % _ROW and not content.size % (_ROW + 1):  # CIFAR-100 has a coarse and a fine label.
    raise InputError(f'{str(file)!r} holds CIFAR-100 in its binary version: give files of CIFAR-10')
  if not content.size or content.size % _ROW:
    raise InputError(f'{str(file)!r} has {content.size:,} bytes, no multiple of {_ROW} (a label and 3 x 32 x 32 '
                     'colours): it is cut off, or no file of CIFAR-10')
  rows = content.reshape(-1, _ROW)
  if (highest := rows[:, 0].max()) >= _CLASSES:
    raise InputError(f'{str(file)!r} has the label {highest} where CIFAR-10 has 0 .. {_CLASSES - 1}: it is no file of '
                     'CIFAR-10 in its binary version')
  return rows[:, 1:]


def _read_pickle(file, content):
  """Returns uint8 (N, 3072) of a file of the python version, without running any code that the file names."""
  contents = restricted_pickle.unpickle(file, content, encoding='bytes')
  contents = {str(name, 'latin1') if isinstance(name, bytes) else name: value
              for name, value in (contents.items() if isinstance(contents, dict) else ())}
  if 'fine_labels' in contents:
    raise InputError(f'{str(file)!r} holds CIFAR-100: give files of CIFAR-10')
  rows = contents.get('data')
  if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (_ROW - 1,):
    raise InputError(f'{str(file)!r} holds no uint8 array of {_ROW - 1} columns named data: it is no file of CIFAR-10 '
                     'in its python version')
  return rows
