"""Images as tokens: every form of every data set is the same bytes in the same order, and what is wrong is named."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from trax_hourglass.data import cifar10
from trax_hourglass.data import image_folder
from trax_hourglass.data import imagenet
from trax_hourglass.data import tfds_source


def random_images(n, size=32, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), np.uint8)


def planes(images):
  return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def assert_split(corpus, split, images):
  data = corpus.split(split)
  assert corpus.unit == 'dim' and corpus.vocab_size == 256 and data.example_length == images[0].size
  np.testing.assert_array_equal(data.read(0, len(data)), images.ravel())


TRAIN, TEST = random_images(7), random_images(3, seed=1)


@pytest.fixture
def small_cifar10(monkeypatch):
  """Lets files of any content have the published names."""
  monkeypatch.setattr(cifar10, '_PUBLISHED', {})


def write_binary(folder, n_first=4):
  for name, images in (('data_batch_1', TRAIN[:n_first]), ('data_batch_2', TRAIN[n_first:]), ('test_batch', TEST)):
    np.concatenate([np.full((len(images), 1), 9, np.uint8), planes(images)], axis=1).tofile(folder / f'{name}.bin')


def python2_pickle(rows):
  """Returns what Python 2 and its NumPy wrote of {'data': rows, 'labels': [...]}."""
  def string(text):
    return b'U' + bytes([len(text)]) + text

  minus_1 = b'J' + struct.pack('<i', -1)
  dtype = b'cnumpy\ndtype\n' + string(b'u1') + b'K\x00K\x01\x87R(K\x03' + string(b'|') + b'NNN' + 2 * minus_1 + b'K\x00tb'
  array = (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85' + string(b'b') + b'\x87R(K\x01'
           + b''.join(b'J' + struct.pack('<i', n) for n in rows.shape) + b'\x86' + dtype + b'\x89T'
           + struct.pack('<i', rows.size) + rows.tobytes() + b'tb')
  return b'\x80\x02}(' + string(b'data') + array + string(b'labels') + b'](' + b'K\x07' * len(rows) + b'eu.'


def write_python(folder, n_first=4):
  for name, images in (('data_batch_1', TRAIN[:n_first]), ('data_batch_2', TRAIN[n_first:]), ('test_batch', TEST)):
    (folder / name).write_bytes(python2_pickle(planes(images)))


@pytest.mark.parametrize('write, subfolder', [(write_binary, ''), (write_binary, 'cifar-10-batches-bin'), (write_python, ''),
                                              (write_python, 'cifar-10-batches-py')])
def test_cifar10_from_a_folder(tmp_path, small_cifar10, write, subfolder):
  (tmp_path / subfolder).mkdir(exist_ok=True)
  write(tmp_path / subfolder)
  for _ in range(2):  # The second time from the cache.
    corpus = cifar10.Cifar10(str(tmp_path), n_valid=2, cache_dir=tmp_path / 'cache')
    for split, images in (('train', TRAIN[:5]), ('valid', TRAIN[5:]), ('test', TEST)):
      assert_split(corpus, split, images)
  corpus = cifar10.Cifar10(tmp_path, n_valid=0, cache_dir=tmp_path / 'cache')
  for split, images in (('train', TRAIN), ('valid', TEST), ('test', TEST)):
    assert_split(corpus, split, images)


def test_tokens_go_pixel_by_pixel(tmp_path, small_cifar10):
  """By hand: row 1, column 2 of image 1 is 3 tokens from 3072 + 3 (32 + 2) on; in the file it is in three planes."""
  write_binary(tmp_path)
  tokens = cifar10.Cifar10(tmp_path, 1, cache_dir=tmp_path / 'cache').split('train')
  file = (tmp_path / 'data_batch_1.bin').read_bytes()[3073 + 1:]
  assert tokens.read(3072 + 3 * 34, 3).tolist() == [file[34], file[1024 + 34], file[2048 + 34]]


def test_cifar10_from_one_file(tmp_path, small_cifar10):
  write_binary(tmp_path)
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
    (python2_pickle(planes(TRAIN))[:-500], 'refused, '), (pickle.dumps({'a': 1}), 'holds no uint8 array of 3072 columns'),
    (python2_pickle(planes(random_images(2, 16))), 'holds no uint8 array of 3072 columns named data'),
])
def test_bad_files_of_cifar10(tmp_path, monkeypatch, content, message):
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
def test_files_with_a_published_name_must_be_the_published_ones(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=f"{name}' {message}"):
    cifar10.Cifar10(tmp_path, 1, cache_dir=tmp_path / 'cache').split('test' if name.startswith('test') else 'train')


def test_bad_settings_of_cifar10(tmp_path, small_cifar10):
  with pytest.raises(ValueError, match='does not exist: give a folder or a file'):
    cifar10.Cifar10(tmp_path / 'none')
  with pytest.raises(ValueError, match='holds no data_batch_1.bin .. 5 or test_batch.bin, nor those of the python version'):
    cifar10.Cifar10(tmp_path)
  with pytest.raises(ValueError, match='n_valid is -1'):
    cifar10.Cifar10(tmp_path, n_valid=-1)
  write_binary(tmp_path)
  with pytest.raises(ValueError, match='n_valid is 5,000 of 7 training images: none are left'):
    cifar10.Cifar10(tmp_path, cache_dir=tmp_path / 'cache').split('train')


def mock_tfds(images):
  """Lets TFDS serve these images, whatever the data set."""
  return tfds.testing.mock_data(as_dataset_fn=lambda *_, **__: tf.data.Dataset.from_tensor_slices({'image': images}))


def test_images_from_tfds(tmp_path):
  with mock_tfds(TRAIN):
    corpus = cifar10.Cifar10(n_valid=2, cache_dir=tmp_path)
    assert_split(corpus, 'train', TRAIN[:5])
    assert_split(corpus, 'valid', TRAIN[5:])
    assert_split(imagenet.VanDenOordImagenet(32, cache_dir=tmp_path), 'train', TRAIN)
  images = random_images(2, 64)
  with mock_tfds(images):
    assert_split(imagenet.VanDenOordImagenet(64, cache_dir=tmp_path), 'valid', images)
  message = 'images of uint8 31 x 31 x 3, where uint8 32 x 32 x 3'
  with mock_tfds(random_images(2, 31)), pytest.raises(ValueError, match=message):
    imagenet.VanDenOordImagenet(32, cache_dir=tmp_path).split('valid')
  with tfds.testing.mock_data(num_examples=3):
    assert len(cifar10.Cifar10(n_valid=1, cache_dir=tmp_path / 'other').split('train')) == 2 * 3072


def test_imagenet_without_network(tmp_path, monkeypatch):
  monkeypatch.setattr(tfds_source, '_PROBE', 'http://127.0.0.1:1/')
  with pytest.raises(ValueError, match=r'TFDS has not prepared downsampled_imagenet/32x32/.*its download is gone; give'):
    imagenet.VanDenOordImagenet(32, data_dir=str(tmp_path)).split('valid')


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


@pytest.mark.parametrize('form', ['folder', 'zip', 'tar', 'npz', 'npz_compressed', 'one zip', 'one tar'])
@pytest.mark.parametrize('size', [32, 64])
def test_van_den_oord_imagenet_from_files(tmp_path, form, size):
  by_split = {'train': random_images(5, size), 'valid': random_images(3, size, 1)}
  root = tmp_path / 'root'
  root.mkdir()
  for split, images in by_split.items():
    name = f'{split}_{size}x{size}'
    if form == 'one zip':
      write_zip(tmp_path / 'all', images, f'somewhere/{name}/')
    elif form == 'folder':
      write_folder(root / name, images)
    elif form.startswith('npz'):
      (np.savez_compressed if 'compressed' in form else np.savez)(root / f'{name}.npz', images)
    elif form in ('zip', 'tar'):
      {'zip': write_zip, 'tar': write_tar}[form](root / f'{name}.{form}', images)
  if form == 'one tar':
    write_tar(tmp_path / 'all', by_split.pop('train'), f'train_{size}x{size}/')
    del by_split['valid']
  path = tmp_path / 'all' if form.startswith('one') else str(root)
  corpus = imagenet.VanDenOordImagenet(size, path, None, tmp_path / 'cache')
  for split, images in by_split.items():
    assert_split(corpus, split, images)
  with pytest.raises(ValueError, match='has no test split: results are reported on the split valid'):
    corpus.split('test')
  if form == 'one tar':
    assert_split(corpus, 'train', random_images(5, size))
    with pytest.raises(ValueError, match='has no valid split: .* does not hold it'):
      corpus.split('valid')


def write_chrabaszcz(folder, by_file, labels=True):
  for name, images in by_file.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    columns = {'labels': np.ones(len(images)), 'mean': np.zeros(3)} if labels else {}
    np.savez(folder / name, data=planes(images), **columns)


def test_chrabaszcz_imagenet(tmp_path):
  images = random_images(12)
  write_chrabaszcz(tmp_path, {f'train/train_data_batch_{i}.npz': images[i - 1:i] for i in range(1, 11)})
  write_chrabaszcz(tmp_path, {'val_data.npz': images[10:]})
  corpus = imagenet.ChrabaszczImagenet(32, tmp_path, tmp_path / 'cache')
  assert_split(corpus, 'train', images[:10])  # Batch 10 comes after batch 9.
  assert_split(corpus, 'valid', images[10:])
  assert corpus.name == 'ImageNet 32x32 (Chrabaszcz)'


def test_the_two_imagenets_are_not_mixed(tmp_path, monkeypatch):
  images = random_images(3)
  write_chrabaszcz(tmp_path, {'train_32x32.npz': images, 'val_data.npz': images})
  with pytest.raises(ValueError, match='holds data.npy, labels.npy, mean.npy where one array .*newer ImageNet'):
    imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split('train')
  write_chrabaszcz(tmp_path, {'val_data.npz': images}, labels=False)
  with pytest.raises(ValueError, match='holds no labels, so it is not of the newer ImageNet'):
    imagenet.ChrabaszczImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split('valid')
  monkeypatch.setitem(imagenet._N_IMAGES['Chrabaszcz'], 'valid', 3)
  np.savez(tmp_path / 'valid_32x32.npz', images)
  with pytest.raises(ValueError, match=r'\(van den Oord\): 3 images in valid are what the data set of Chrabaszcz has'):
    imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split('valid')


def test_bad_imagenets(tmp_path):
  for kind in (imagenet.VanDenOordImagenet, imagenet.ChrabaszczImagenet):
    with pytest.raises(ValueError, match='size is 16: downsampled ImageNet has 32 and 64'):
      kind(16, tmp_path)
    with pytest.raises(ValueError, match='holds no '):
      kind(32, tmp_path)
  with pytest.raises(ValueError, match="give its folder of .npz files by ChrabaszczImagenet.path = 'FOLDER'"):
    imagenet.ChrabaszczImagenet(32)
  write_chrabaszcz(tmp_path, {'val_data.npz': random_images(2, 64), 'train_data_batch_1.npz': random_images(2)})
  whole = (tmp_path / 'train_data_batch_1.npz').read_bytes()
  (tmp_path / 'train_data_batch_1.npz').write_bytes(whole[:1000] + bytes(900) + whole[1900:])
  for split, message in (('valid', r'holds rows of \(12288,\), not of 3 x 32 x 32'),
                         ('train', 'data.npy cannot be read .*CRC')):
    with pytest.raises(ValueError, match=message):
      imagenet.ChrabaszczImagenet(32, tmp_path, tmp_path / 'cache').split(split)
  (tmp_path / 'train_data_batch_1.npz').write_bytes(whole[:-100])
  with pytest.raises(ValueError, match='is no .npz, or damaged'):
    imagenet.ChrabaszczImagenet(32, tmp_path, tmp_path / 'cache').split('train')
  for name, array in (('train_32x32.npz', np.zeros((2, 32, 32, 3))), ('valid_32x32.npz', np.array([{}] * 2))):
    np.savez(tmp_path / name, array)
  for split, message in (('train', 'an array of float64'), ('valid', 'an array of object')):
    with pytest.raises(ValueError, match=message):
      imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split(split)


def open_folder(path, cache_dir, size=8, **options):
  return image_folder.ImageFolder(str(path), size, cache_dir=cache_dir, **options)


@pytest.mark.parametrize('form', ['folder', 'zip', 'tar'])
def test_few_images_are_split_by_position(tmp_path, form):
  images = random_images(20, 8)
  {'folder': write_folder, 'zip': write_zip, 'tar': write_tar}[form](tmp_path / 'images', images)
  corpus = open_folder(tmp_path / 'images', tmp_path / 'cache')
  for split, part in (('train', images[:18]), ('valid', images[18:19]), ('test', images[19:])):
    assert_split(corpus, split, part)


def test_many_images_are_split_by_name_and_subfolders_by_theirs(tmp_path):
  images = random_images(150, 1)
  write_folder(tmp_path / 'many', images)
  (tmp_path / 'many/readme.txt').write_text('no image')
  splits = [open_folder(tmp_path / 'many', tmp_path / 'cache', 1).split(split) for split in ('train', 'valid', 'test')]
  whole = np.concatenate([data.read(0, len(data)) for data in splits]).reshape(-1, 3)
  assert sorted(map(tuple, whole)) == sorted(map(tuple, images.reshape(-1, 3))) and len(splits[0]) > 3 * 120
  write_folder(tmp_path / 'split/train/cats', images[:4])
  write_folder(tmp_path / 'split/val', images[4:6])
  corpus = open_folder(tmp_path / 'split', tmp_path / 'cache', 1)
  assert_split(corpus, 'train', images[:4])
  assert_split(corpus, 'valid', images[4:6])
  with pytest.raises(ValueError, match='has no test split: no image of it is in'):
    corpus.split('test')


def test_other_modes_are_converted_and_said(tmp_path, capsys):
  grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
  deep = grey.astype(np.uint16) * 256 + 99
  rgba = np.concatenate([random_images(1, 8)[0], np.full((8, 8, 1), 7, np.uint8)], axis=-1)
  write_folder(tmp_path / 'images/train', [grey, grey, rgba, deep, random_images(1, 8)[0]])
  expected = [*[np.repeat(grey[..., None], 3, axis=-1)] * 2, rgba[..., :3]]
  expected += [expected[0], random_images(1, 8)[0]]
  assert_split(open_folder(tmp_path / 'images', tmp_path / 'cache'), 'train', np.stack(expected))
  said = capsys.readouterr()
  assert said.err.count('4 images converted to RGB (I;16 1, L 2, RGBA 1; transparency dropped)') == 1 and not said.out


def test_other_sizes_are_scaled_and_cut_or_refused(tmp_path, capsys):
  wide = np.zeros((16, 48, 3), np.uint8)
  wide[:, 16:32] = 200  # The middle third remains.
  write_folder(tmp_path / 'images/train', [wide, wide.transpose(1, 0, 2), random_images(1, 8)[0]])
  data = open_folder(tmp_path / 'images', tmp_path / 'cache').split('train')
  for i in range(2):
    assert (np.abs(data.read(192 * i, 192).reshape(8, 8, 3)[2:6, 2:6].astype(int) - 200) < 30).all()
  assert data.read(384, 192).tolist() == random_images(1, 8).ravel().tolist()
  assert '2 images of other sizes scaled and cut to 8 x 8' in capsys.readouterr().err
  with pytest.raises(ValueError, match=r"image '.*000.png' is 48 x 16 \(width x height\), where 8 x 8 is wanted"):
    open_folder(tmp_path / 'images', tmp_path / 'cache', other_sizes='error').split('train')


def test_corrupt_images_are_named_or_skipped_if_asked(tmp_path, capsys):
  images = random_images(4, 8)
  write_folder(tmp_path / 'images/train', images)
  whole = (tmp_path / 'images/train/002.png').read_bytes()
  for content in (whole[:-40], whole[:40], b'', b'no image'):
    (tmp_path / 'images/train/002.png').write_bytes(content)
    with pytest.raises(ValueError, match=r"image '.*images/train/002.png' is corrupt \("):
      open_folder(tmp_path / 'images', tmp_path / 'cache').split('train')
  assert_split(open_folder(tmp_path / 'images', tmp_path / 'cache', corrupt='skip'), 'train', images[[0, 1, 3]])
  assert '1 corrupt images skipped, such as train/002.png' in capsys.readouterr().err


def test_bad_image_folders(tmp_path):
  for path, message in ((tmp_path / 'none', 'does not exist: give a folder of images'), (tmp_path, 'holds no images')):
    with pytest.raises(ValueError, match=message):
      open_folder(path, tmp_path)
  (tmp_path / 'file').write_text('neither')
  with pytest.raises(ValueError, match='is no .zip or .tar, or damaged'):
    open_folder(tmp_path / 'file', tmp_path)
  write_folder(tmp_path / 'two', random_images(2, 8))
  for options, message in (({}, '2 files are too few for the splits'), ({'size': 0}, 'size is 0: give the side'),
                           ({'other_sizes': 'stretch'}, "other_sizes is 'stretch'"),
                           ({'corrupt': 'repair'}, "corrupt is 'repair'")):
    with pytest.raises(ValueError, match=message):
      open_folder(tmp_path / 'two', tmp_path / 'cache', **{'size': 8, **options})
  with pytest.raises(ValueError, match="no folder of images is named: give ImageFolder.path = 'FOLDER'"):
    image_folder.ImageFolder()
  Image.fromarray(np.zeros((8, 8), np.int32)).save(tmp_path / 'two/deep.tif')
  with pytest.raises(ValueError, match="image '.*deep.tif' has pixels of 32 bits .mode I., whose range is not known"):
    open_folder(tmp_path / 'two', tmp_path / 'cache').split('test')


def pack(path, content):
  """Writes the content of a .tar packed as the path's ending says."""
  with {'.tar': open, '.gz': gzip.open, '.xz': lzma.open, '.bz2': bz2.open}[path.suffix](path, 'wb') as f:
    f.write(content)


@pytest.mark.parametrize('ending', ['.tar', '.tar.gz', '.tar.xz', '.tar.bz2', '.zip'])
def test_images_of_an_archive_come_in_the_order_of_their_names(tmp_path, ending):
  images = random_images(4, 8)
  path, order = tmp_path / f'images{ending}', [2, 0, 3, 1]
  if ending == '.zip':
    with zipfile.ZipFile(path, 'w') as archive:
      for i in order:
        archive.writestr(f'train/{i}.png', png(images[i]))
  else:
    with tarfile.open(path, f'w:{path.suffix[1:].removeprefix("tar")}') as archive:
      for i in [1, *order]:  # The first one is replaced by the last, as in an archive that was added to.
        info = tarfile.TarInfo(f'train/{i}.png')
        info.size = len(png(images[i]))
        archive.addfile(info, io.BytesIO(png(images[i])))
  assert_split(open_folder(path, tmp_path / 'cache'), 'train', images)


def test_a_tar_that_does_not_end_as_it_should_is_refused(tmp_path):
  """Python's tarfile takes a damaged, cut off or missing header for the end."""
  write_tar(tmp_path / 'whole.tar', random_images(5, 8), 'train/')
  whole = (tmp_path / 'whole.tar').read_bytes()
  with tarfile.open(tmp_path / 'whole.tar') as archive:
    headers = [info.offset for info in archive]
  third, last = headers[2], headers[-1]
  end = last + 2 * 512  # An image of 8 x 8 takes one block behind its header.
  assert whole[end - 512:end].strip(b'\0') and not whole[end:].strip(b'\0')
  harmed = [whole[:cut] for cut in (third, third + 1, third + 511, third + 512, last, last + 100, end, end + 1, end + 511)]
  for content in (bytes([whole[third] ^ 1]), bytes(512), b'x' * 512):
    harmed.append(whole[:third] + content + whole[third + len(content):])
  harmed += [whole + b'x', whole + whole]
  for suffix in ('.tar', '.gz', '.xz', '.bz2'):
    path = tmp_path / f'harmed{suffix}'
    for content in harmed:
      pack(path, content)
      with pytest.raises(ValueError, match='is no .zip or .tar, or damaged .*: fetch it again'):
        open_folder(path, tmp_path / 'cache', 8)
    pack(path, whole[:end + 512])  # A single block of zeros will do.
    assert len(open_folder(path, tmp_path / 'cache', 8).split('train')) == 5 * 192


@pytest.mark.parametrize('ending', ['.tar', '.gz', '.xz', '.bz2', '.zip', '.npz'])
def test_damaged_archives_end_in_no_traceback(tmp_path, ending):
  """Whatever byte is wrong, and wherever it is cut off: an error that names the file, or images as they were."""
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


def test_an_archive_that_is_encrypted_or_changes_while_it_is_read(tmp_path):
  write_zip(tmp_path / 'images.zip', random_images(2, 8))
  content = bytearray((tmp_path / 'images.zip').read_bytes())
  for mark, offset in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):  # The flags, of which bit 0 says encrypted.
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


def test_what_is_missing_of_an_imagenet_is_said(tmp_path, monkeypatch, capsys):
  images = random_images(3)
  write_chrabaszcz(tmp_path, {f'train_data_batch_{i}.npz': images[:1] for i in range(1, 11) if i not in (2, 9)})
  write_tar(tmp_path / 'valid_32x32.tar', images)
  newer = imagenet.ChrabaszczImagenet(32, tmp_path, tmp_path / 'cache')
  assert (f"ImageNet 32x32 (Chrabaszcz): train_data_batch_2.npz, train_data_batch_9.npz are missing below {str(tmp_path)!r}"
          in capsys.readouterr().err)
  newer.split('train')
  assert 'ImageNet 32x32 (Chrabaszcz) train: 8 images, of the 1,281,167 that are published\n' in capsys.readouterr().err
  imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split('valid')
  assert 'ImageNet 32x32 (van den Oord) valid: 3 images, of the 49,999 that are published\n' in capsys.readouterr().err
  monkeypatch.setitem(imagenet._N_IMAGES['van den Oord'], 'valid', 3)
  imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'other').split('valid')
  assert 'that are published' not in capsys.readouterr().err
