"""Reads the two versions of downsampled ImageNet, whose results must not be compared, by a class for each.

The version of van den Oord et al. 2016 (arXiv 1601.06759) has 1,281,149 training and 49,999 validation images. The
paper and its competitors use this version, which TFDS calls `downsampled_imagenet`.

The version of Chrabaszcz et al. 2017 (arXiv 1707.08819) has 1,281,167 and 50,000 images. They are scaled with a
smoother filter, which gives lower bits per dim, and published as .npz with labels, at first as pickles.

Neither version has a test split; results are reported on the validation images, here `valid`.
"""

import contextlib
import functools
import pathlib
import re
import zipfile

import numpy as np

from trax_hourglass.data import archives
from trax_hourglass.data import cache
from trax_hourglass.data.corpus import Corpus
from trax_hourglass.data import folders
from trax_hourglass.data import image_files
from trax_hourglass.data import image_tokens
from trax_hourglass.data import sources
from trax_hourglass.data import tfds_source
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import progress
from trax_hourglass.runtime import restricted_pickle

_SIZES = (32, 64)
_NO_TEST = 'results are reported on the split valid'
_ROWS = 1000  # Images of an .npz per read.
_VAN_DEN_OORD, _CHRABASZCZ = 'van den Oord', 'Chrabaszcz'
_N_IMAGES = {_VAN_DEN_OORD: {'train': 1_281_149, 'valid': 49_999}, _CHRABASZCZ: {'train': 1_281_167, 'valid': 50_000}}
_BATCHES = [f'train_data_batch_{i}' for i in range(1, 11)]  # Files of Chrabaszcz's training images.


class _Imagenet(Corpus):
  """Holds one of the two versions."""
  unit = 'dim'

  def __init__(self, authors, size, path, arrays, key, cache_dir):
    """Creates splits from {split: function that yields arrays}; `key` identifies their source in the cache."""
    name = f'ImageNet {size}x{size} ({authors})'

    def tokens(split):
      counted = functools.partial(_counted, arrays[split], name, authors, split)
      file = cache.folder(cache_dir) / f'imagenet{size}-{authors.replace(" ", "-").lower()}-{split}-{key}'
      return image_tokens.flat_file(file, counted, size, f'{name} {split}')

    not_there = f'{str(path)!r} does not hold it; add its files'
    super().__init__(name, {split: lambda split=split: tokens(split) for split in arrays},
                     missing={'train': not_there, 'valid': not_there, 'test': _NO_TEST})
    self.summary = f'{name} of {path or "TFDS"}: {", ".join(arrays)} as published'


class VanDenOordImagenet(_Imagenet):
  """The older downsampled ImageNet, of van den Oord et al."""

  def __init__(self, size, path=None, data_dir=None, cache_dir=None):
    """Finds the files.

    Args:
      size: 32 or 64, side of the images.
      path: folder that holds each wanted split, named such as `train_32x32` or `valid_32x32`. A split is a folder of
        .png, a .zip or .tar of one, or a .npy or .npz with one array (N, S, S, 3) or (N, 3, S, S). A .zip or .tar with
        the two folders is accepted too. None takes the images from TFDS, whose download no longer exists, so that
        they must be prepared already.
      data_dir: TFDS's folder; None for TFDS's default.
      cache_dir: folder of the cache; None for the one of `cache.folder`.

    Raises:
      InputError: another size, or missing files. On access to a split: files that are damaged or of the newer data
        set, images that TFDS has not prepared, or a cache that cannot be written.
    """
    _check_size(size)
    if path is None:
      arrays, key = _from_tfds(size, data_dir)
    else:
      arrays, key = _older_files(pathlib.Path(path).expanduser(), size)
    super().__init__(_VAN_DEN_OORD, size, path, arrays, key, cache_dir)


class ChrabaszczImagenet(_Imagenet):
  """The newer downsampled ImageNet, of Chrabaszcz et al."""

  def __init__(self, size, path=None, cache_dir=None):
    """Finds the files.

    Args:
      size: 32 or 64, side of the images.
      path: folder that holds, at any depth, train_data_batch_1.npz .. 10 and val_data.npz, or the older pickles of the
        same names without an extension.
      cache_dir: folder of the cache; None for the one of `cache.folder`.

    Raises:
      InputError: another size, or missing files. On access to a split: files that are damaged or of the older data
        set, or a cache that cannot be written.
    """
    _check_size(size)
    if path is None:
      raise InputError("the newer ImageNet (Chrabaszcz) has to be fetched by hand from https://image-net.org, with a "
                       "registration: give its folder of .npz files by ChrabaszczImagenet.path = 'FOLDER'")
    root = pathlib.Path(path).expanduser()
    files = _newer_files(root)
    missing = set(_BATCHES) - {file.stem for file in files.get('train', ())}
    if 'train' in files and missing:
      progress.say(f'ImageNet {size}x{size} (Chrabaszcz): {", ".join(sorted(missing, key=_number))} are missing below '
                   f'{str(path)!r}, and train is made of the others')
    if not files:
      raise InputError(f'{str(path)!r} holds no train_data_batch_1.npz .. 10 or val_data.npz: give the folder with the '
                       '.npz files of image-net.org')

    def arrays(split):
      for file in files[split]:
        for rows in _newer_npz(file) if file.suffix else _newer_pickle(file):
          if rows.shape[1:] != (3 * size * size,):
            raise InputError(f'{str(file)!r} holds rows of {rows.shape[1:]}, not of 3 x {size} x {size} colours: check '
                             'size')
          yield image_tokens.from_planes(rows, size)

    super().__init__(_CHRABASZCZ, size, path, {split: functools.partial(arrays, split) for split in files},
                     cache.fingerprint(sum(files.values(), [])), cache_dir)


def _counted(arrays, name, authors, split):
  """Yields the arrays; reports at the end if the number of images is not the published one.

  Raises:
    InputError: the number of images is that of the other data set.
  """
  n = 0
  for array in arrays():
    n += len(array)
    yield array
  for others, counts in _N_IMAGES.items():
    if others != authors and n == counts[split]:
      raise InputError(f'{name}: {n:,} images in {split} are what the data set of {others} has, and the two must not '
                       'be mixed')
  if n != _N_IMAGES[authors][split]:
    progress.say(f'{name} {split}: {n:,} images, of the {_N_IMAGES[authors][split]:,} that are published')


def _newer_files(root):
  """Returns {split: files of Chrabaszcz's data set below a folder}, .npz if there are any, else pickles."""
  names = folders.files_below(root)[0] if root.is_dir() else []
  for end in ('.npz', ''):
    found = {}
    for split, of_split in (('train', _BATCHES), ('valid', ['val_data'])):
      by_base = {pathlib.PurePosixPath(name).name: root / name for name in reversed(names)}
      if there := [by_base[f'{name}{end}'] for name in of_split if f'{name}{end}' in by_base]:
        found[split] = there
    if found:
      return found
  return {}


def _newer_npz(file):
  if 'labels.npy' not in _members(file):
    raise InputError(f'{str(file)!r} holds no labels, so it is not of the newer ImageNet (Chrabaszcz)')
  return _rows(file, 'data.npy')


def _newer_pickle(file):
  content = restricted_pickle.unpickle(file, file.read_bytes(), encoding='latin1')
  data = content.get('data') if isinstance(content, dict) else None
  if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or 'labels' not in content:
    raise InputError(f'{str(file)!r} holds no uint8 rows named data, with labels: it is no file of the newer ImageNet '
                     '(Chrabaszcz)')
  return (data[first:first + _ROWS] for first in range(0, len(data), _ROWS))


def _number(name):
  return int(re.sub(r'\D', '', name) or 0)


def _check_size(size):
  if size not in _SIZES:
    raise InputError(f'size is {size!r}: downsampled ImageNet has {" and ".join(map(str, _SIZES))}')


def _from_tfds(size, data_dir):
  """Returns {split: function that yields arrays}, and a key of their source for the cache."""
  made = tfds_source.builder(f'downsampled_imagenet/{size}x{size}', data_dir)
  by_hand = "its download is gone; give the files by VanDenOordImagenet.path = 'FOLDER'"

  def arrays(split):
    for image in tfds_source.examples(made, split, 'image', by_hand):
      yield image[None]

  splits = {'train': 'train', 'valid': 'validation'}
  return ({split: functools.partial(arrays, theirs) for split, theirs in splits.items()},
          cache.fingerprint([], str(made.data_dir)))


def _older_files(path, size):
  """Returns the same as `_from_tfds`, from files."""
  arrays, looked_at = {}, []
  for split in ('train', 'valid'):
    name = f'{split}_{size}x{size}'
    beside = [path / f'{name}{end}' for end in ('', '.npy', '.npz', '.zip', '.tar')] if path.is_dir() else []
    found = next((candidate for candidate in beside if candidate.exists()), None)
    if found is not None and found.suffix in ('.npy', '.npz'):
      arrays[split] = functools.partial(_older_arrays, found)
      looked_at.append(found)
    elif found is not None or path.is_file():
      source = (sources.Folder if found and found.is_dir() else sources.Archive)(found or path, image_files.is_image)
      names = source.names if found else [n for n in source.names if name in pathlib.PurePosixPath(n).parts]
      if names:
        arrays[split] = functools.partial(image_files.arrays, source, names, size)
        looked_at += source.files
  if not arrays:
    raise InputError(f'{str(path)!r} holds no train_{size}x{size} or valid_{size}x{size}, as folder of images, .zip, '
                     '.tar, .npy or .npz: give the folder they are in')
  return arrays, cache.fingerprint(looked_at)


def _older_arrays(file):
  """Yields (N, S, S, 3) of a .npy or .npz, whose images may also be stored as (3, S, S)."""
  member = None
  if file.suffix == '.npz':
    names = _members(file)
    if len(names) != 1:
      raise InputError(f'{str(file)!r} holds {", ".join(sorted(names))} where one array (N, S, S, 3) is wanted; with '
                       'labels it is of the newer ImageNet (Chrabaszcz), see ChrabaszczImagenet')
    member = names[0]
  for rows in _rows(file, member):
    yield rows.transpose(0, 2, 3, 1) if rows.ndim == 4 and rows.shape[1] == 3 else rows


def _members(file):
  try:
    with zipfile.ZipFile(file) as archive:
      return archive.namelist()
  except (OSError, *archives.DAMAGED) as error:
    raise InputError(f'{str(file)!r} is not a .npz, or damaged ({error}): fetch it again') from error


def _rows(file, member):
  """Yields the array of a .npy, or of a member of a .npz, in chunks of rows: ImageNet 64 takes gigabytes.

  Raises:
    InputError: the file is damaged, or holds no uint8 array.
  """
  try:
    with contextlib.ExitStack() as stack:
      f = stack.enter_context(stack.enter_context(zipfile.ZipFile(file)).open(member) if member else open(file, 'rb'))
      version = np.lib.format.read_magic(f)
      read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
      shape, column_major, dtype = read_header(f)
      if dtype != np.uint8 or column_major or len(shape) < 2:
        raise InputError(f'an array of {dtype} {shape} where rows of uint8 are wanted')
      for first in range(0, shape[0], _ROWS):
        n = min(_ROWS, shape[0] - first)
        content = f.read(n * int(np.prod(shape[1:])))
        yield np.frombuffer(content, np.uint8).reshape(n, *shape[1:])
      if f.read(1):  # Reading to the end also verifies the checksum.
        raise InputError(f'it is longer than its {shape[0]:,} rows')
  except (OSError, KeyError, ValueError, *archives.DAMAGED) as error:
    raise InputError(f'{str(file)!r}: {member or "its array"} cannot be read ({error})') from error
