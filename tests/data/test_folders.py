"""Tests folders of users: symbolic links, compressed texts, and images in all formats and EXIF orientations."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import stat
import tarfile
import zipfile

import numpy as np
from PIL import Image
import pytest
import zstandard

import trax_hourglass as th
from trax_hourglass.data import folders
from trax_hourglass.data import image_files
from trax_hourglass.data import sources


def everything(corpus):
  """Returns the concatenated tokens of all splits."""
  return b''.join(np.asarray(split.read(0, len(split))).astype(np.uint8).tobytes()
                  for split in map(corpus.split, ('train', 'valid', 'test')))


def write_links_to_zip(path, files, links):
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in files.items():
      archive.writestr(name, content)
    for name, target in links.items():
      info = zipfile.ZipInfo(name)
      info.external_attr = (stat.S_IFLNK | 0o777) << 16
      archive.writestr(info, target)


def write_links_to_tar(path, files, links):
  with tarfile.open(path, 'w:gz') as archive:
    for name, target in links.items():
      info = tarfile.TarInfo(f'./{name}')
      info.type, info.linkname = tarfile.SYMTYPE, target
      archive.addfile(info)
    for name, content in files.items():
      info = tarfile.TarInfo(f'./{name}')
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))


def test_symbolic_links_are_followed_without_loops(tmp_path):
  root, elsewhere = tmp_path / 'root', tmp_path / 'elsewhere'
  (root / 'a' / 'b').mkdir(parents=True)
  (elsewhere / 'deep').mkdir(parents=True)
  for path in root / 'a' / 'x', elsewhere / 'y', elsewhere / 'deep' / 'z', root / '.hidden', elsewhere / '.git':
    path.write_text('text')
  (root / 'linked').symlink_to(elsewhere)
  (root / 'file').symlink_to(elsewhere / 'y')
  (root / 'a' / 'b' / 'up').symlink_to(root)  # A link to a parent folder.
  (elsewhere / 'back').symlink_to(root / 'a')
  (root / 'broken').symlink_to(tmp_path / 'nothing')
  names, left_out = folders.files_below(root)
  assert names == ['a/x', 'file', 'linked/back/x', 'linked/deep/z', 'linked/y']
  assert folders.told(left_out) == '; left out: 1 broken link, 2 hidden, 2 links to a parent folder'
  assert folders.files_below(root, follow_folders=False)[0] == ['a/x', 'file']


@pytest.mark.parametrize('write', [write_links_to_zip, write_links_to_tar])
def test_archive_links_are_followed_but_never_outside(tmp_path, write):
  (tmp_path / 'secret').write_text('secret')
  write(tmp_path / 'archive', {'a/x': b'one', 'a/y': b'two'}, {
      'b/x': '../a/x', 'c': 'a', 'd/e': '../c', 'up': '../secret', 'absolute': str(tmp_path / 'secret'),
      'round': 'round', 'a/back': '../a', 'nothing': 'a/z'})
  source = sources.Archive(tmp_path / 'archive')
  assert {name.removeprefix('./'): content.decode() for name, content in source.contents(source.names)} == {
      'a/x': 'one', 'a/y': 'two', 'b/x': 'one', 'c/x': 'one', 'c/y': 'two', 'd/e/x': 'one', 'd/e/y': 'two'}
  assert source.left_out['links to nothing in the archive'] == 5
  assert b''.join(source.chunks()) == b'onetwoone' + b'onetwo' * 2 and source.sizes() == [3] * 7


@pytest.mark.parametrize('pack', [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
@pytest.mark.parametrize('in_folder', [False, True])
def test_compressed_texts_are_recognised_by_content(tmp_path, monkeypatch, pack, in_folder):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  (tmp_path / 'texts').mkdir()
  (tmp_path / 'texts' / 'some.txt').write_bytes(pack(b'packed ' * 900))
  (tmp_path / 'texts' / 'plain').write_bytes(b'plain ')
  path = tmp_path / 'texts' if in_folder else tmp_path / 'texts' / 'some.txt'
  for _ in range(2):  # The second pass reads the cache.
    assert everything(th.ByteCorpus(str(path))) == b'plain ' * in_folder + b'packed ' * 900


def test_archives_of_compressed_texts_are_refused_and_tar_zst_is_read(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  write_links_to_zip(tmp_path / 'a', {f'{split}.txt.gz': gzip.compress(b'x' * 9) for split in ('train', 'valid')}, {})
  with pytest.raises(ValueError, match=r"a' holds compressed files, such as 'train.txt.gz': unpack the archive"):
    th.ByteCorpus(str(tmp_path / 'a'))
  mixed = {**{f'{split}.txt': b'text ' * 9 for split in ('train', 'valid', 'test')}, 'fixture.gz': gzip.compress(b'')}
  write_links_to_zip(tmp_path / 'mixed', mixed, {})
  assert len(everything(th.ByteCorpus(str(tmp_path / 'mixed')))) >= 27 * 5
  write_links_to_tar(tmp_path / 'b', {f'{split}.txt': split.encode() for split in ('train', 'valid', 'test')}, {})
  (tmp_path / 'b.tar.zst').write_bytes(zstandard.compress((tmp_path / 'b').read_bytes()))
  assert everything(th.ByteCorpus(str(tmp_path / 'b.tar.zst'))) == b'trainvalidtest'


@pytest.mark.parametrize('pack', [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_truncated_compressed_text_is_refused(tmp_path, monkeypatch, pack):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  (tmp_path / 'text').write_bytes(pack(os.urandom(5000))[:-900])
  with pytest.raises(ValueError, match="text' is damaged or cut off"):
    th.ByteCorpus(str(tmp_path / 'text'))


@pytest.mark.parametrize('write', [write_links_to_zip, write_links_to_tar])
def test_text_archives_are_read_and_truncated_ones_refused(tmp_path, monkeypatch, write):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  splits = 'train', 'valid', 'test'
  write(tmp_path / 'wiki', {f'wikitext/wiki.{split}.raw': split.encode() * 9 for split in splits}, {})
  for _ in range(2):  # The second pass reads the cache.
    corpus = th.ByteCorpus(str(tmp_path / 'wiki'))
    assert everything(corpus) == b'train' * 9 + b'valid' * 9 + b'test' * 9
  (tmp_path / 'cut.zip').write_bytes((tmp_path / 'wiki').read_bytes()[:-30])
  with pytest.raises(ValueError, match='damaged'):
    th.ByteCorpus(str(tmp_path / 'cut.zip'))


def test_binary_files_beside_texts_are_left_out(tmp_path):
  for name, content in {'train.txt': b'some text', 'dev.txt': 'text'.encode('utf-16'), 'empty': b'', '.hidden': b'a',
                        'cover.png': b'\x89PNG\0\0', 'index': b'\0' * 99}.items():
    (tmp_path / name).write_bytes(content)
  (tmp_path / 'lost').symlink_to('nowhere')
  corpus = th.ByteCorpus(str(tmp_path))
  assert len(corpus.split('train')) == 9 and len(corpus.split('valid')) == 10
  assert corpus.summary.endswith('2 files, 19 bytes; train, valid as files and folders are named; left out: 2 binary '
                                 'beside texts (such as cover.png, index), 1 broken link, 1 empty, 1 hidden')
  assert '4 files, 124 bytes' in th.ByteCorpus(str(tmp_path), splits='shared').summary


def test_binary_data_beside_a_readme_is_kept(tmp_path):
  for name, content in {'a.bin': bytes(999), 'b.bin': bytes(999), 'README': b'text'}.items():
    (tmp_path / name).write_bytes(content)
  assert '3 files, 2,002 bytes' in th.ByteCorpus(str(tmp_path)).summary


def test_images_of_every_format_pillow_writes_are_read(tmp_path):
  image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8))
  written = set()
  Image.init()
  for ending, kind in Image.registered_extensions().items():
    path = tmp_path / f'picture{ending.upper()}'
    try:
      image.convert('1' if kind in ('XBM', 'MSP') else 'RGB').save(path, kind)
      Image.open(path).load()
    except (KeyError, OSError, ValueError, AttributeError):  # No writer, or none for these pixels.
      path.unlink(missing_ok=True)
      continue
    written.add(kind)
  assert {'AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'PCX', 'PNG', 'QOI', 'SGI', 'TGA', 'TIFF', 'WEBP', 'XBM'} <= written
  (tmp_path / 'labels.json').write_text('{}')
  (tmp_path / 'figure.eps').write_text('%!PS')
  source = sources.Folder(tmp_path, image_files.is_image, 'pictures')
  assert len(source.names) == len(os.listdir(tmp_path)) - 2
  assert folders.told(source.left_out) == '; left out: 1 that are no pictures (.eps), 1 that are no pictures (.json)'
  assert all(image.shape == (1, 8, 8, 3) for image in image_files.arrays(source, source.names, 8, 'resize'))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_follow_their_exif_orientation(tmp_path, orientation):
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
def test_an_image_with_too_many_pixels_is_refused(tmp_path, monkeypatch, corrupt):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  (tmp_path / 'images').mkdir()
  for number, side in enumerate((4, 4, 4, 12)):
    Image.new('RGB', (side, side)).save(tmp_path / 'images' / f'{number}.png')
  corpus = th.ImageFolder(str(tmp_path / 'images'), 4, corrupt=corrupt, cache_dir=str(tmp_path / 'cache'))
  with pytest.raises(ValueError, match="3.png' is too large: it has more than 100 pixels; scale it down"):
    everything(corpus)


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('key', ['data', b'data'])
def test_cifar10_subsets_pickled_by_any_protocol_are_read(tmp_path, protocol, key):
  rows = np.random.RandomState(0).randint(0, 256, (12, 3072)).astype(np.uint8)
  (tmp_path / 'mine').write_bytes(pickle.dumps({key: rows, 'labels': [3] * 12}, protocol=protocol))
  corpus = th.Cifar10(str(tmp_path / 'mine'), n_valid=2, cache_dir=str(tmp_path / 'cache'))
  assert (len(corpus.split('train')), len(corpus.split('valid'))) == (10 * 3072, 2 * 3072)


def test_a_cifar100_file_is_refused(tmp_path):
  (tmp_path / 'train').write_bytes(pickle.dumps({'data': np.zeros((9, 3072), np.uint8), 'fine_labels': [99] * 9}))
  with pytest.raises(ValueError, match='holds CIFAR-100: give files of CIFAR-10'):
    th.Cifar10(str(tmp_path / 'train'), n_valid=2, cache_dir=str(tmp_path / 'cache')).split('train')
