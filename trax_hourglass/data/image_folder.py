"""Reads any folder of images as a corpus."""

import pathlib

from trax_hourglass.data import cache
from trax_hourglass.data.corpus import Corpus
from trax_hourglass.data.corpus import SPLITS
from trax_hourglass.data import folders
from trax_hourglass.data import image_files
from trax_hourglass.data import image_tokens
from trax_hourglass.data import sources
from trax_hourglass.data import splits as splits_lib
from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError

_SUBFOLDERS = {'train': ('train',), 'valid': ('valid', 'validation', 'val'), 'test': ('test',)}
_CHOICES = {'other_sizes': ('resize', 'error'), 'corrupt': ('error', 'skip')}


class ImageFolder(Corpus):
  """Holds the images below a folder, at one size, in the order of their names.

  Splits named by the user are kept, see `splits.named`. Otherwise, images are split by the rules of splits.py into 90 %
  train, 5 % valid and 5 % test.
  """
  unit = 'dim'

  def __init__(self, path=None, size=None, other_sizes='resize', corrupt='error', cache_dir=None,
               splits='named'):
    """Finds the images.

    Args:
      path: the folder, or a .zip or .tar of it; required.
      size: side of all images in pixels; required.
      other_sizes: treatment of images of another size: 'error', or 'resize', which scales the shorter side (Lanczos)
        and center-crops the longer one.
      corrupt: treatment of images that cannot be read, 'error' or 'skip'.
      cache_dir: folder of the cache; None for the one of `cache.folder`.
      splits: 'named', or 'shared', the rule of version 0.2 and before. With 'shared', the first subfolder in a path
        named train, valid, validation, val or test decides, if any is named train. Otherwise, images are split as
        above. Links to folders are not followed, and EXIF orientation is ignored.

    Raises:
      InputError: the folder does not exist or holds no images, or an argument is none of its choices. On access to a
        split: an image cannot be read or has another size (unless arguments allow it), or the cache cannot be written.
    """
    if path is None:
      raise InputError("no folder of images is named: give ImageFolder.path = 'FOLDER'")
    if not checks.is_whole(size) or size < 1:
      raise InputError(f'size is {size!r}: give the side of the images in pixels, ImageFolder.size = 32 or so')
    for name, value in (('other_sizes', other_sizes), ('corrupt', corrupt)):
      if value not in _CHOICES[name]:
        raise InputError(f'{name} is {value!r}: choose one of {", ".join(map(repr, _CHOICES[name]))}')
    splits_lib.check_rule(splits)
    source = _open_source(path, follow_folders=splits != 'shared')
    by_split, how = splits_lib.named(source.names) if splits == 'named' else (_by_subfolder(source.names),
                                                                              'splits = shared')
    if by_split is None:
      by_split, how = splits_lib.of_names(source.names), f'{how}: divided by name'
    elif 'valid' not in by_split and splits == 'named':
      n = splits_lib.held_out(len(by_split['train']))
      by_split |= {'train': by_split['train'][:-n], 'valid': by_split['train'][-n:]}
      how += f', valid is the last {n:,} images of train'

    turned = splits != 'shared'

    def tokens(split):
      settings = ('turned as EXIF says',) if turned else ()
      key = cache.fingerprint(source.files, split, size, other_sizes, corrupt, *settings)
      return image_tokens.flat_file(
          cache.folder(cache_dir) / f'images-{split}-{key}',
          lambda: image_files.arrays(source, by_split[split], size, other_sizes, corrupt, turned), size,
          f'{source.path} {split}')

    super().__init__(str(path), {split: lambda split=split: tokens(split) for split in SPLITS if by_split.get(split)},
                     missing={split: f'no image of it is in {str(path)!r}; add some' for split in SPLITS})
    self.summary = f'{path}: {len(source.names):,} images; {how}{folders.told(source.left_out)}'


def _open_source(path, follow_folders):
  """Returns the `Folder` or `Archive` of a path.

  Raises:
    InputError: the path is neither, or holds no images.
  """
  path = pathlib.Path(path).expanduser()
  if not path.exists():
    raise InputError(f'{str(path)!r} does not exist: give a folder of images, or a .zip or .tar of it')
  source = (sources.Folder(path, image_files.is_image, 'pictures', follow_folders) if path.is_dir() else
            sources.Archive(path, image_files.is_image, 'pictures'))
  if not source.names:
    raise InputError(f'{str(path)!r} holds no images: give a folder with .png, .jpg or such files')
  return source


def _by_subfolder(names):
  """Returns {split: names} by the first subfolder that is named after a split; None if none is named train."""
  by_split = {}
  for name in names:
    parts = name.split('/')[:-1]
    split = next((split for part in parts for split, known in _SUBFOLDERS.items() if part in known), None)
    by_split.setdefault(split, []).append(name)
  return by_split if 'train' in by_split else None
