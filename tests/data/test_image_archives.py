"""Tests archives of images: read in order of names, and refused if truncated or damaged at any place."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest

from trax_hourglass.data import imagenet
from tests.helpers.pictures import assert_split
from tests.helpers.pictures import open_folder
from tests.helpers.pictures import png
from tests.helpers.pictures import random_images
from tests.helpers.pictures import write_chrabaszcz
from tests.helpers.pictures import write_tar
from tests.helpers.pictures import write_zip


def pack(path, content):
  """Writes the content of a .tar with the compression that the suffix of the path names."""
  with {'.tar': open, '.gz': gzip.open, '.xz': lzma.open, '.bz2': bz2.open}[path.suffix](path, 'wb') as f:
    f.write(content)


@pytest.mark.parametrize('ending', ['.tar', '.tar.gz', '.tar.xz', '.tar.bz2', '.zip'])
def test_archive_images_are_ordered_by_name(tmp_path, ending):
  images = random_images(4, 8)
  path, order = tmp_path / f'images{ending}', [2, 0, 3, 1]
  if ending == '.zip':
    with zipfile.ZipFile(path, 'w') as archive:
      for i in order:
        archive.writestr(f'train/{i}.png', png(images[i]))
  else:
    with tarfile.open(path, f'w:{path.suffix[1:].removeprefix("tar")}') as archive:
      for i in [1, *order]:  # The later entry replaces the first, as in an appended archive.
        info = tarfile.TarInfo(f'train/{i}.png')
        info.size = len(png(images[i]))
        archive.addfile(info, io.BytesIO(png(images[i])))
  assert_split(open_folder(path, tmp_path / 'cache', splits='shared'), 'train', images)


def test_a_tar_with_a_damaged_header_or_end_is_refused(tmp_path):
  """A .tar with a damaged, truncated or missing header is refused, though Python's tarfile takes this for the end."""
  write_tar(tmp_path / 'whole.tar', random_images(5, 8), 'train/')
  whole = (tmp_path / 'whole.tar').read_bytes()
  with tarfile.open(tmp_path / 'whole.tar') as archive:
    headers = [info.offset for info in archive]
  third, last = headers[2], headers[-1]
  end = last + 2 * 512  # An image of 8 x 8 takes one block after its header.
  assert whole[end - 512:end].strip(b'\0') and not whole[end:].strip(b'\0')
  harmed = [
      whole[:cut] for cut in (third, third + 1, third + 511, third + 512, last, last + 100, end, end + 1, end + 511)
  ]
  for content in (bytes([whole[third] ^ 1]), bytes(512), b'x' * 512):
    harmed.append(whole[:third] + content + whole[third + len(content):])
  harmed += [whole + b'x', whole + whole]
  for suffix in ('.tar', '.gz', '.xz', '.bz2'):
    path = tmp_path / f'harmed{suffix}'
    for content in harmed:
      pack(path, content)
      with pytest.raises(ValueError, match='is not a .zip or .tar, or damaged .*: fetch it again'):
        open_folder(path, tmp_path / 'cache', 8)
    pack(path, whole[:end + 512])  # A single block of zeros suffices as the end.
    assert len(open_folder(path, tmp_path / 'cache', 8, splits='shared').split('train')) == 5 * 192


@pytest.mark.parametrize('ending', ['.tar', '.gz', '.xz', '.bz2', '.zip', '.npz'])
def test_damaged_archives_raise_or_give_the_original_images(tmp_path, ending):
  """Any flipped bit or truncation ends in an error that names the file, or in the original images."""
  images, path = random_images(3, 32), tmp_path / f'train_32x32{ending}'
  if ending == '.zip':
    write_zip(path, images)
  elif ending == '.npz':
    np.savez_compressed(path, images)
  else:
    write_tar(tmp_path / 'plain', images)
    pack(path, (tmp_path / 'plain').read_bytes())
  whole = path.read_bytes()
  if ending not in ('.zip', '.npz'):
    path = path.rename(tmp_path / 'train_32x32.tar')
  random = np.random.default_rng(0)
  refused = 0
  for place in np.linspace(0, len(whole) - 1, 60).astype(int).tolist():
    flipped = bytes([whole[place] ^ 1 << random.integers(8)])
    for content in (whole[:place], whole[:place] + flipped + whole[place + 1:]):
      path.write_bytes(content)
      try:
        data = imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split('train')
        np.testing.assert_array_equal(data.read(0, len(data)), images.ravel())
        (tmp_path / 'cache').rename(tmp_path / f'cache{place}{len(content)}')
      except ValueError as error:
        assert str(tmp_path) in str(error)
        refused += 1
  assert refused > 90


def test_encrypted_or_changed_archives_are_refused(tmp_path):
  write_zip(tmp_path / 'images.zip', random_images(2, 8))
  content = bytearray((tmp_path / 'images.zip').read_bytes())
  for mark, offset in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):  # Bit 0 of the flags means encrypted.
    at = -1
    while (at := content.find(mark, at + 1)) >= 0:
      content[at + offset] |= 1
  (tmp_path / 'images.zip').write_bytes(content)
  with pytest.raises(ValueError, match="images.zip' is encrypted: unpack it first"):
    open_folder(tmp_path / 'images.zip', tmp_path / 'cache')
  source = tmp_path / 'cut.tar'
  write_tar(source, random_images(5, 64))
  corpus = open_folder(source, tmp_path / 'cache', 64)
  source.write_bytes(source.read_bytes()[:30_000])
  with pytest.raises(ValueError, match='is damaged'):
    corpus.split('train')
  source.unlink()
  write_tar(source, random_images(1, 64))
  with pytest.raises(ValueError, match="has changed and no longer holds '001.png'"):
    corpus.split('train')


def test_missing_imagenet_parts_are_reported(tmp_path, monkeypatch, capsys):
  images = random_images(3)
  write_chrabaszcz(tmp_path, {f'train_data_batch_{i}.npz': images[:1] for i in range(1, 11) if i not in (2, 9)})
  write_tar(tmp_path / 'valid_32x32.tar', images)
  newer = imagenet.ChrabaszczImagenet(32, tmp_path, tmp_path / 'cache')
  assert ("ImageNet 32x32 (Chrabaszcz): train_data_batch_2, train_data_batch_9 are missing below "
          f"{str(tmp_path)!r}"
          in capsys.readouterr().err)
  newer.split('train')
  assert 'ImageNet 32x32 (Chrabaszcz) train: 8 images, of the 1,281,167 that are published\n' in capsys.readouterr().err
  imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split('valid')
  assert 'ImageNet 32x32 (van den Oord) valid: 3 images, of the 49,999 that are published\n' in capsys.readouterr().err
  monkeypatch.setitem(imagenet._N_IMAGES['van den Oord'], 'valid', 3)
  imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'other').split('valid')
  assert 'that are published' not in capsys.readouterr().err
