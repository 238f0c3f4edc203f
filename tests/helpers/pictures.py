"""Makes images, and files like those in which data sets are published, for tests."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

from trax_hourglass.data import image_folder


def random_images(n, size=32, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), np.uint8)


def planes(images):
  return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def assert_split(corpus, split, images):
  data = corpus.split(split)
  assert corpus.unit == 'dim' and corpus.vocab_size == 256 and data.example_length == images[0].size
  np.testing.assert_array_equal(data.read(0, len(data)), images.ravel())


TRAIN, TEST = random_images(7), random_images(3, seed=1)


def png(image):
  stream = io.BytesIO()
  Image.fromarray(image).save(stream, 'PNG')
  return stream.getvalue()


def write_folder(folder, images):
  folder.mkdir(parents=True)
  for i, image in enumerate(images):
    (folder / f'{i:03}.png').write_bytes(png(image))


def write_zip(path, images, within=''):
  with zipfile.ZipFile(path, 'a') as archive:
    for i, image in enumerate(images):
      archive.writestr(f'{within}{i:03}.png', png(image))


def write_tar(path, images, within=''):
  with tarfile.open(path, 'w') as archive:
    for i, image in enumerate(images):
      info = tarfile.TarInfo(f'{within}{i:03}.png')
      info.size = len(png(image))
      archive.addfile(info, io.BytesIO(png(image)))


def write_chrabaszcz(folder, by_file, labels=True):
  for name, images in by_file.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    columns = {'labels': np.ones(len(images)), 'mean': np.zeros(3)} if labels else {}
    np.savez(folder / name, data=planes(images), **columns)


def open_folder(path, cache_dir, size=8, **options):
  return image_folder.ImageFolder(str(path), size, cache_dir=cache_dir, **options)


def write_binary(folder, n_first=4):
  for name, images in (('data_batch_1', TRAIN[:n_first]), ('data_batch_2', TRAIN[n_first:]), ('test_batch', TEST)):
    np.concatenate([np.full((len(images), 1), 9, np.uint8), planes(images)], axis=1).tofile(folder / f'{name}.bin')
