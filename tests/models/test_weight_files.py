"""Tests weight files: every format holds equal weights, and other files are refused quickly."""

import gzip
import json
import os
import resource
import struct
import time
import tracemalloc

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from trax import shapes

from tests.helpers import pairs
from tests.helpers import sampling
from trax_hourglass.models import interop
from trax_hourglass.models import weight_files
from trax_hourglass.models import weight_names
from trax_hourglass.runtime import errors


UMASK = os.umask(0)
os.umask(UMASK)


def model(hierarchy='1@1 2@3 1@1', **options):
  made = pairs.ours(hierarchy, **options)
  made.init(shapes.ShapeDtype((1, 6), np.int32))
  return made


@pytest.fixture(scope='module')
def source():
  return model()


@pytest.mark.parametrize('hierarchy', ['2@1', '1@1 2@3 1@1', '1@1 1@2 1@4 1@2 1@1'])
def test_weight_names_are_unique(hierarchy):
  made = model(hierarchy)
  names = weight_names.names(made)
  assert len(set(names)) == len(names) == len(jax.tree.leaves(made.weights))
  assert names[0] == 'embedding' and names[-2:] == ['dense/w', 'dense/b']
  assert 'stack/scanned/decoder_block/relative_attention/query/w' in names


def test_weight_names_describe_roles_not_positions(source):
  deeper = model('3@1 1@3 2@1')
  assert weight_names.names(deeper) == weight_names.names(source)


@pytest.mark.parametrize('form, skip', [
    ('a.safetensors', 'scaled'), ('ours.pkl.gz', 'scaled'), ('authors.pkl.gz', 'identity')])
def test_every_file_format_holds_equal_weights(tmp_path, form, skip):
  path, source = tmp_path / form, model(skip=skip)
  if form == 'authors.pkl.gz':
    interop.to_trax(source, path)
  else:
    weight_files.write(path, source, 7, "x = 'y'\n")
  assert path.stat().st_mode & 0o777 == 0o666 & ~UMASK
  stored = weight_files.read(path)
  assert (stored.step, stored.config) == ((7, "x = 'y'\n") if form == 'a.safetensors' else (None, None))
  other = model(skip=skip)
  other.weights = jax.tree.map(np.zeros_like, other.weights)
  assert weight_files.take(stored, other) == []
  jax.tree.map(np.testing.assert_array_equal, other.weights, source.weights)
  if form != 'a.safetensors':
    interop.from_trax(str(path), other)
    jax.tree.map(np.testing.assert_array_equal, other.weights, source.weights)


def test_weight_count_mismatch_names_both_orders(tmp_path, source):
  weight_files.write(tmp_path / 'ours.pkl.gz', source)
  with pytest.raises(errors.InputError, match=r"ours.pkl.gz does not fit the model: the source has \d+ weights; the "
                                              r"model "
                                              r"has \d+ in its own order and \d+ in the authors'"):
    weight_files.take(weight_files.read(tmp_path / 'ours.pkl.gz'), model('2@1'))


def with_header(header, data=b''):
  header = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack('<Q', len(header)) + header + data


def tensor(first, last, shape=(2,), dtype='F32'):
  return {'dtype': dtype, 'shape': list(shape), 'data_offsets': [first, last]}


HOSTILE = {
    'empty': b'', 'short': b'\5\0\0', 'header beyond the file': struct.pack('<Q', 1 << 40) + b'{}',
    'huge header': struct.pack('<Q', 1 << 62), 'no JSON': with_header(b'\xff\xfe{'), 'a list': with_header([1, 2]),
    'deep': with_header(b'[' * 5_000_000), 'deep objects': with_header(b'{"a":' * 5_000_000),
    'overlap': with_header({'a': tensor(0, 8), 'b': tensor(4, 12)}, bytes(12)),
    'hole': with_header({'a': tensor(0, 8), 'b': tensor(12, 20)}, bytes(20)),
    'beyond the end': with_header({'a': tensor(0, 1 << 50, (1 << 48,))}, bytes(8)),
    'negative': with_header({'a': tensor(-8, 0)}, bytes(8)), 'backwards': with_header({'a': tensor(8, 0)}, bytes(8)),
    'size of the shape overflows': with_header({'a': tensor(0, 8, (1 << 63, 1 << 63))}, bytes(8)),
    'other size than its shape': with_header({'a': tensor(0, 8, (3,))}, bytes(8)),
    'no such type': with_header({'a': tensor(0, 8, dtype='F7')}, bytes(8)),
    'whole numbers': with_header({'a': tensor(0, 8, dtype='I32')}, bytes(8)),
    'metadata of numbers': with_header({'__metadata__': {'step': 5}, 'a': tensor(0, 8)}, bytes(8)),
    'more than it says': with_header({'a': tensor(0, 8)}, bytes(99)), 'a pickle': b'\x80\x04cos\nsystem\n.',
}


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_safetensors_are_refused_in_bounded_time_and_memory(tmp_path, name):
  path = tmp_path / 'hostile.safetensors'
  path.write_bytes(HOSTILE[name])
  started = time.process_time()
  tracemalloc.start()
  with pytest.raises(errors.InputError, match='hostile.safetensors: '):
    weight_files.read(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 1 << 24 and time.process_time() - started < 10


def nested(n):
  """Returns a pickle of lists within lists, n deep."""
  return b'\x80\x04' + b']' * n + b'a' * (n - 1) + b'.'


def laughs(n):
  """Returns a pickle of a list that holds another twice, which holds another twice, and so on."""
  one = b''.join(b']\x94h' + bytes([i]) + b'h' + bytes([i]) + b'\x86' for i in range(n))
  return b'\x80\x04' + one + b'.'


def array_of(shape):
  """Returns a pickle of an empty array of any shape."""
  return (b'\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(' +
          b''.join(b'\x8a\x08' + struct.pack('<q', n) for n in shape) + b'tU\x01btR.')


HOSTILE_PICKLES = {
    'a function': b'\x80\x02cos\nsystem\n(U\x02lstR.', 'built in': b'\x80\x02cbuiltins\neval\n(U\x011tR.',
    'an attribute of what is admitted': b'\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93.',
    'deep': nested(200_000), 'laughs': laughs(100), 'array beyond memory': array_of((1 << 40, 1 << 20)),
    'negative array': array_of((-5,)), 'text beyond the end': b'\x80\x04\x8d' + struct.pack('<Q', 1 << 60) + b'x',
    'memo beyond the end': b'\x80\x04]r\xff\xff\xff\x0f.', 'no end': b'\x80\x04' + b'(' * 100_000,
    'bytes beyond the end': b'\x80\x05\x96' + struct.pack('<Q', 1 << 36) + b'x',
    'persistent': b'\x80\x02U\x01xQ.', 'extension': b'\x80\x02\x82\x01.', 'zeros': bytes(300 << 20),
}


@pytest.mark.parametrize('name', HOSTILE_PICKLES)
def test_hostile_pickles_are_refused_in_bounded_time_and_memory(tmp_path, name):
  path = tmp_path / 'hostile.pkl.gz'
  path.write_bytes(gzip.compress(HOSTILE_PICKLES[name], 9))
  started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(errors.InputError, match='hostile.pkl.gz'):
    weight_files.read(path)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20 and time.process_time() - started < 10


@pytest.mark.parametrize('form', ['ours.pkl.gz', 'authors.pkl.gz', 'a.safetensors'])
def test_a_damaged_file_is_refused_or_gives_the_right_weights(tmp_path, source, form):
  path, other = tmp_path / form, model()
  if form == 'authors.pkl.gz':
    interop.to_trax(source, path)
  else:
    weight_files.write(path, source, 7, 'x = 1')
  sound = path.read_bytes()
  codes = []

  @settings(max_examples=sampling.examples(100, 2000))
  @given(st.data())
  def damage(data):
    content, kind = bytearray(sound), data.draw(st.sampled_from(['flip', 'cut', 'zero', 'remove']))
    place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(9000, len(content) - 1)))
    if kind == 'flip':
      content[place] ^= data.draw(st.integers(1, 255))
    elif kind == 'cut':
      del content[place:]
    elif kind == 'zero':
      n = data.draw(st.integers(1, len(content) - place))
      content[place:place + n] = bytes(n)
    path.write_bytes(content)
    if kind == 'remove':
      path.unlink()
    try:
      weight_files.take(weight_files.read(path), other)
    except errors.InputError as error:
      assert form in str(error)
      codes.append(2)
    else:
      jax.tree.map(np.testing.assert_array_equal, other.weights, source.weights)
      codes.append(0)

  damage()
  assert codes.count(2) > len(codes) / 2


def test_half_precision_files_load_as_float32(tmp_path, source):
  names = weight_names.names(source)
  halves = {name: np.asarray(leaf, np.float16) for name, leaf in zip(names, jax.tree.leaves(source.weights))}
  safetensors_numpy.save_file(halves, tmp_path / 'half.safetensors')
  other = model()
  weight_files.take(weight_files.read(tmp_path / 'half.safetensors'), other)
  for half, leaf in zip(halves.values(), jax.tree.leaves(other.weights), strict=True):
    assert leaf.dtype == np.float32 and (np.asarray(leaf) == half).all()
