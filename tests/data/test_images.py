"""Tests images as tokens: every form of a data set gives the same bytes in the same order, errors name the fault."""

import pickle

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tests.helpers import pictures

from trax_hourglass.data import cifar10
from trax_hourglass.data import image_folder
from trax_hourglass.data import imagenet
from trax_hourglass.data import tfds_source


def mock_tfds(images):
  """Makes TFDS serve these images for every data set."""
  return tfds.testing.mock_data(as_dataset_fn=lambda *_, **__: tf.data.Dataset.from_tensor_slices({'image': images}))


def test_images_are_read_from_tfds(tmp_path):
  with mock_tfds(pictures.TRAIN):
    corpus = cifar10.Cifar10(n_valid=2, cache_dir=tmp_path)
    pictures.assert_split(corpus, 'train', pictures.TRAIN[:5])
    pictures.assert_split(corpus, 'valid', pictures.TRAIN[5:])
    pictures.assert_split(imagenet.VanDenOordImagenet(32, cache_dir=tmp_path), 'train', pictures.TRAIN)
  images = pictures.random_images(2, 64)
  with mock_tfds(images):
    pictures.assert_split(imagenet.VanDenOordImagenet(64, cache_dir=tmp_path), 'valid', images)
  message = 'images of uint8 31 x 31 x 3, where uint8 32 x 32 x 3'
  with mock_tfds(pictures.random_images(2, 31)), pytest.raises(ValueError, match=message):
    imagenet.VanDenOordImagenet(32, cache_dir=tmp_path).split('valid')
  with tfds.testing.mock_data(num_examples=3):
    assert len(cifar10.Cifar10(n_valid=1, cache_dir=tmp_path / 'other').split('train')) == 2 * 3072


def test_unprepared_tfds_imagenet_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(tfds_source, '_PROBE', 'http://127.0.0.1:1/')
  with pytest.raises(ValueError, match=r'TFDS has not prepared downsampled_imagenet/32x32/.*its download is gone; '
                                       r'give'):
    imagenet.VanDenOordImagenet(32, data_dir=str(tmp_path)).split('valid')


@pytest.mark.parametrize('form', ['folder', 'zip', 'tar', 'npz', 'npz_compressed', 'one zip', 'one tar'])
@pytest.mark.parametrize('size', [32, 64])
def test_van_den_oord_imagenet_is_read_from_every_form(tmp_path, form, size):
  by_split = {'train': pictures.random_images(5, size), 'valid': pictures.random_images(3, size, 1)}
  root = tmp_path / 'root'
  root.mkdir()
  for split, images in by_split.items():
    name = f'{split}_{size}x{size}'
    if form == 'one zip':
      pictures.write_zip(tmp_path / 'all', images, f'somewhere/{name}/')
    elif form == 'folder':
      pictures.write_folder(root / name, images)
    elif form.startswith('npz'):
      (np.savez_compressed if 'compressed' in form else np.savez)(root / f'{name}.npz', images)
    elif form in ('zip', 'tar'):
      {'zip': pictures.write_zip, 'tar': pictures.write_tar}[form](root / f'{name}.{form}', images)
  if form == 'one tar':
    pictures.write_tar(tmp_path / 'all', by_split.pop('train'), f'train_{size}x{size}/')
    del by_split['valid']
  path = tmp_path / 'all' if form.startswith('one') else str(root)
  corpus = imagenet.VanDenOordImagenet(size, path, None, tmp_path / 'cache')
  for split, images in by_split.items():
    pictures.assert_split(corpus, split, images)
  with pytest.raises(ValueError, match='has no test split: results are reported on the split valid'):
    corpus.split('test')
  if form == 'one tar':
    pictures.assert_split(corpus, 'train', pictures.random_images(5, size))
    with pytest.raises(ValueError, match='has no valid split: .* does not hold it'):
      corpus.split('valid')


@pytest.mark.parametrize('planes', [False, True])
@pytest.mark.parametrize('ending', ['npy', 'npz'])
def test_van_den_oord_imagenet_is_read_from_an_array(tmp_path, planes, ending):
  images = {'train': pictures.random_images(3), 'valid': pictures.random_images(2, seed=1)}
  for split, of_split in images.items():
    array = of_split.transpose(0, 3, 1, 2) if planes else of_split
    path = tmp_path / f'{split}_32x32.{ending}'
    np.save(path, array) if ending == 'npy' else np.savez(path, array)
  corpus = imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'cache')
  for split, of_split in images.items():
    pictures.assert_split(corpus, split, of_split)
  assert corpus.summary == f'ImageNet 32x32 (van den Oord) of {tmp_path}: train, valid as published'


def test_a_truncated_van_den_oord_array_is_refused(tmp_path):
  np.save(tmp_path / 'train_32x32.npy', pictures.random_images(3))
  path = tmp_path / 'train_32x32.npy'
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ValueError, match='its array cannot be read'):
    imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split('train')


@pytest.mark.parametrize('protocol', [2, 4])
def test_chrabaszcz_imagenet_is_read_from_pickles(tmp_path, protocol):
  images = pictures.random_images(5)
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'train').symlink_to(tmp_path / 'elsewhere')
  for name, some in (('train/train_data_batch_10', images[:2]), ('train/train_data_batch_9', images[2:4]),
                     ('val_data', images[4:])):
    (tmp_path / name).write_bytes(pickle.dumps(
        {'data': pictures.planes(some), 'labels': [1] * len(some), 'mean': np.zeros(3072)}, protocol=protocol))
  corpus = imagenet.ChrabaszczImagenet(32, tmp_path, tmp_path / 'cache')
  pictures.assert_split(corpus, 'train', images[[2, 3, 0, 1]])
  pictures.assert_split(corpus, 'valid', images[4:])
  (tmp_path / 'val_data').write_bytes(pickle.dumps({'data': pictures.planes(images)}))
  with pytest.raises(ValueError, match="val_data' holds no uint8 rows named data, with labels"):
    imagenet.ChrabaszczImagenet(32, tmp_path, tmp_path / 'cache').split('valid')


def test_chrabaszcz_batches_are_read_in_numeric_order(tmp_path):
  images = pictures.random_images(12)
  pictures.write_chrabaszcz(tmp_path, {f'train/train_data_batch_{i}.npz': images[i - 1:i] for i in range(1, 11)})
  pictures.write_chrabaszcz(tmp_path, {'val_data.npz': images[10:]})
  corpus = imagenet.ChrabaszczImagenet(32, tmp_path, tmp_path / 'cache')
  pictures.assert_split(corpus, 'train', images[:10])  # Batch 10 comes after batch 9.
  pictures.assert_split(corpus, 'valid', images[10:])
  assert corpus.name == 'ImageNet 32x32 (Chrabaszcz)'


def test_each_imagenet_refuses_files_of_the_other(tmp_path, monkeypatch):
  images = pictures.random_images(3)
  pictures.write_chrabaszcz(tmp_path, {'train_32x32.npz': images, 'val_data.npz': images})
  with pytest.raises(ValueError, match='holds data.npy, labels.npy, mean.npy where one array .*newer ImageNet'):
    imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split('train')
  pictures.write_chrabaszcz(tmp_path, {'val_data.npz': images}, labels=False)
  with pytest.raises(ValueError, match='holds no labels, so it is not of the newer ImageNet'):
    imagenet.ChrabaszczImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split('valid')
  monkeypatch.setitem(imagenet._N_IMAGES['Chrabaszcz'], 'valid', 3)
  np.savez(tmp_path / 'valid_32x32.npz', images)
  with pytest.raises(ValueError, match=r'\(van den Oord\): 3 images in valid are what the data set of Chrabaszcz has'):
    imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split('valid')


def test_invalid_imagenet_files_and_settings_are_refused(tmp_path):
  for kind in (imagenet.VanDenOordImagenet, imagenet.ChrabaszczImagenet):
    with pytest.raises(ValueError, match='size is 16: downsampled ImageNet has 32 and 64'):
      kind(16, tmp_path)
    with pytest.raises(ValueError, match='holds no '):
      kind(32, tmp_path)
  with pytest.raises(ValueError, match="give its folder of .npz files by ChrabaszczImagenet.path = 'FOLDER'"):
    imagenet.ChrabaszczImagenet(32)
  pictures.write_chrabaszcz(
      tmp_path, {'val_data.npz': pictures.random_images(2, 64), 'train_data_batch_1.npz': pictures.random_images(2)})
  whole = (tmp_path / 'train_data_batch_1.npz').read_bytes()
  (tmp_path / 'train_data_batch_1.npz').write_bytes(whole[:1000] + bytes(900) + whole[1900:])
  for split, message in (('valid', r'holds rows of \(12288,\), not of 3 x 32 x 32'),
                         ('train', 'data.npy cannot be read .*CRC')):
    with pytest.raises(ValueError, match=message):
      imagenet.ChrabaszczImagenet(32, tmp_path, tmp_path / 'cache').split(split)
  (tmp_path / 'train_data_batch_1.npz').write_bytes(whole[:-100])
  with pytest.raises(ValueError, match='is not a .npz, or damaged'):
    imagenet.ChrabaszczImagenet(32, tmp_path, tmp_path / 'cache').split('train')
  for name, array in (('train_32x32.npz', np.zeros((2, 32, 32, 3))), ('valid_32x32.npz', np.array([{}] * 2))):
    np.savez(tmp_path / name, array)
  for split, message in (('train', 'an array of float64'), ('valid', 'an array of object')):
    with pytest.raises(ValueError, match=message):
      imagenet.VanDenOordImagenet(32, tmp_path, cache_dir=tmp_path / 'cache').split(split)


@pytest.mark.parametrize('form', ['folder', 'zip', 'tar'])
def test_few_images_are_split_by_position(tmp_path, form):
  images = pictures.random_images(20, 8)
  {'folder': pictures.write_folder, 'zip': pictures.write_zip, 'tar': pictures.write_tar}[form](tmp_path / 'images',
                                                                                                images)
  corpus = pictures.open_folder(tmp_path / 'images', tmp_path / 'cache')
  for split, part in (('train', images[:18]), ('valid', images[18:19]), ('test', images[19:])):
    pictures.assert_split(corpus, split, part)


def test_image_splits_cover_all_files_or_follow_subfolders(tmp_path):
  images = pictures.random_images(150, 1)
  pictures.write_folder(tmp_path / 'many', images)
  (tmp_path / 'many/readme.txt').write_text('no image')
  splits = [
      pictures.open_folder(tmp_path / 'many', tmp_path / 'cache', 1).split(split)
      for split in ('train', 'valid', 'test')
  ]
  whole = np.concatenate([data.read(0, len(data)) for data in splits]).reshape(-1, 3)
  assert sorted(map(tuple, whole)) == sorted(map(tuple, images.reshape(-1, 3))) and len(splits[0]) > 3 * 120
  pictures.write_folder(tmp_path / 'split/train/cats', images[:4])
  pictures.write_folder(tmp_path / 'split/val', images[4:6])
  corpus = pictures.open_folder(tmp_path / 'split', tmp_path / 'cache', 1)
  pictures.assert_split(corpus, 'train', images[:4])
  pictures.assert_split(corpus, 'valid', images[4:6])
  with pytest.raises(ValueError, match='has no test split: no image of it is in'):
    corpus.split('test')


def test_grey_rgba_and_16_bit_images_become_rgb(tmp_path, capsys):
  grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
  deep = grey.astype(np.uint16) * 256 + 99
  rgba = np.concatenate([pictures.random_images(1, 8)[0], np.full((8, 8, 1), 7, np.uint8)], axis=-1)
  pictures.write_folder(tmp_path / 'images/train', [grey, grey, rgba, deep, pictures.random_images(1, 8)[0]])
  expected = [*[np.repeat(grey[..., None], 3, axis=-1)] * 2, rgba[..., :3]]
  expected += [expected[0], pictures.random_images(1, 8)[0]]
  corpus = pictures.open_folder(tmp_path / 'images', tmp_path / 'cache', splits='shared')
  pictures.assert_split(corpus, 'train', np.stack(expected))
  said = capsys.readouterr()
  assert said.err.count('4 images converted to RGB (I;16 1, L 2, RGBA 1; transparency dropped)') == 1 and not said.out


def test_other_sizes_are_scaled_and_cropped_or_refused(tmp_path, capsys):
  wide = np.zeros((16, 48, 3), np.uint8)
  wide[:, 16:32] = 200  # The middle third remains.
  pictures.write_folder(tmp_path / 'images/train', [wide, wide.transpose(1, 0, 2), pictures.random_images(1, 8)[0]])
  data = pictures.open_folder(tmp_path / 'images', tmp_path / 'cache', splits='shared').split('train')
  for i in range(2):
    assert (np.abs(data.read(192 * i, 192).reshape(8, 8, 3)[2:6, 2:6].astype(int) - 200) < 30).all()
  assert data.read(384, 192).tolist() == pictures.random_images(1, 8).ravel().tolist()
  assert '2 images of other sizes scaled and cut to 8 x 8' in capsys.readouterr().err
  with pytest.raises(ValueError, match=r"image '.*000.png' is 48 x 16 \(width x height\), where 8 x 8 is wanted"):
    pictures.open_folder(tmp_path / 'images', tmp_path / 'cache', splits='shared', other_sizes='error').split('train')


def test_corrupt_images_are_refused_or_skipped_if_asked(tmp_path, capsys):
  images = pictures.random_images(4, 8)
  pictures.write_folder(tmp_path / 'images/train', images)
  whole = (tmp_path / 'images/train/002.png').read_bytes()
  for content in (whole[:-40], whole[:40], b'', b'no image'):
    (tmp_path / 'images/train/002.png').write_bytes(content)
    with pytest.raises(ValueError, match=r"image '.*images/train/002.png' is corrupt \("):
      pictures.open_folder(tmp_path / 'images', tmp_path / 'cache', splits='shared').split('train')
  corpus = pictures.open_folder(tmp_path / 'images', tmp_path / 'cache', splits='shared', corrupt='skip')
  pictures.assert_split(corpus, 'train', images[[0, 1, 3]])
  assert '1 corrupt images skipped, such as train/002.png' in capsys.readouterr().err


def test_invalid_image_folders_are_refused(tmp_path):
  for path, message in ((tmp_path / 'none', 'does not exist: give a folder of images'), (tmp_path, 'holds no images')):
    with pytest.raises(ValueError, match=message):
      pictures.open_folder(path, tmp_path)
  (tmp_path / 'file').write_text('neither')
  with pytest.raises(ValueError, match='is not a .zip or .tar, or damaged'):
    pictures.open_folder(tmp_path / 'file', tmp_path)
  pictures.write_folder(tmp_path / 'two', pictures.random_images(2, 8))
  for options, message in (({}, '2 files are too few for the splits'), ({'size': 0}, 'size is 0: give the side'),
                           ({'other_sizes': 'stretch'}, "other_sizes is 'stretch'"),
                           ({'corrupt': 'repair'}, "corrupt is 'repair'")):
    with pytest.raises(ValueError, match=message):
      pictures.open_folder(tmp_path / 'two', tmp_path / 'cache', **{'size': 8, **options})
  with pytest.raises(ValueError, match="no folder of images is named: give ImageFolder.path = 'FOLDER'"):
    image_folder.ImageFolder()
  Image.fromarray(np.zeros((8, 8), np.int32)).save(tmp_path / 'two/deep.tif')
  with pytest.raises(ValueError, match="image '.*deep.tif' has pixels of 32 bits .mode I., whose range is not known"):
    pictures.open_folder(tmp_path / 'two', tmp_path / 'cache').split('test')
