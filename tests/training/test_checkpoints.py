"""Tests checkpoints: restored arrays equal the saved ones, and damage of any kind to the files is detected."""

import math
import os
import resource
import shutil
import time

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import sampling
from tests.helpers import runs

from trax_hourglass.runtime import distributed
from trax_hourglass.runtime import sharding
from trax_hourglass.training import checkpoints
from trax_hourglass.training import retention


def arrays(seed):
  """Returns weights, an empty state, and slots, of different shapes and dtypes."""
  random = np.random.RandomState(seed)
  make = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.float32)
  return {
      'weights': [make(5, 7), make(3), make()], 'state': [],
      'slots': [make(5, 7), jnp.asarray(random.randint(9), jnp.int32)]
  }


def like(of):
  return checkpoints.abstract(of, lambda _: sharding.everywhere(sharding.over_devices(1)))


def assert_equal(found, expected):
  assert found.keys() == expected.keys()
  for part, of_part in expected.items():
    assert [str(x.dtype) for x in found[part]] == [str(x.dtype) for x in of_part]
    for x, y in zip(found[part], of_part, strict=True):
      np.testing.assert_array_equal(x, y)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A run directory with checkpoints of steps 10 and 20."""
  directory = tmp_path_factory.mktemp('saved')
  store = checkpoints.Store(directory)
  for step in (10, 20):
    store.save(step, arrays(step), {'bits': float(step), 'word': 'ä'})
  store.wait()
  return directory


def test_restored_checkpoints_equal_the_saved_ones(saved):
  store = checkpoints.Store(saved)
  assert store.steps() == [10, 20] and store.newest_sound() == 20 and store.best() == 10
  for step in (10, 20):
    store.check(step)
    assert_equal(store.restore(step, like(arrays(step))), arrays(step))
    assert store.notes(step)['word'] == 'ä' and store.notes(step)['step'] == step
  assert_equal(store.restore(10, like({'weights': arrays(10)['weights']})), {'weights': arrays(10)['weights']})
  assert os.system(f'cd {saved}/checkpoints/20 && sha256sum --status -c SHA256SUMS') == 0


def test_arrays_donated_during_a_save_are_saved_intact(tmp_path):
  store = checkpoints.Store(tmp_path)
  x = jnp.arange(1 << 22, dtype=jnp.float32)
  expected = np.array(x)
  overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
  for step in range(1, 4):
    own = x + 0
    store.save(step, {'weights': [own], 'state': [], 'slots': []}, {})
    for _ in range(5):
      own = overwrite(own)
    own.block_until_ready()
    store.wait()
    store.check(step)
    np.testing.assert_array_equal(store.restore(step, like({'weights': [x]}))['weights'][0], expected)


@hypothesis.given(st.dictionaries(st.integers(1, 40), st.none() | st.floats(1, 8) | st.just(math.nan), max_size=9),
                  st.integers(1, 4), st.none() | st.integers(1, 9), st.booleans())
def test_retention_keeps_last_every_and_best(bits, last, every, best):
  kept = retention.Kept(last, every, best).of(bits)
  assert kept <= bits.keys() and set(sorted(bits)[-last:]) <= kept
  scored = {step: value for step, value in bits.items() if value is not None and not math.isnan(value)}
  for step in bits:
    if every and step % every == 0:
      assert step in kept
    elif step not in sorted(bits)[-last:] and step in kept:
      assert best and scored[step] == min(scored.values())
  assert not (best and scored) or min(scored.values()) in [bits[step] for step in kept]


def test_old_checkpoints_are_deleted(tmp_path):
  store = checkpoints.Store(tmp_path, retention.Kept(last=1, every=4))
  for step, bits in ((2, 3.0), (4, 5.0), (6, 4.0), (8, None), (10, 6.0)):
    store.save(step, arrays(step), {'bits': bits})
  store.wait()
  assert sorted(os.listdir(tmp_path / 'checkpoints'), key=int) == ['2', '4', '8', '10']


def test_a_failed_deletion_is_reported_and_retried(tmp_path, monkeypatch, capsys):
  store = checkpoints.Store(tmp_path, retention.Kept(last=1))
  def refuse(*_):
    raise PermissionError('not yours')

  for step in (1, 2, 3):
    store.save(step, arrays(step), {})
    with monkeypatch.context() as patched:
      if step == 2:
        patched.setattr(store, '_put_aside', refuse)
      store.wait()
    assert store.steps() == {1: [1], 2: [1, 2], 3: [3]}[step]
  assert capsys.readouterr().err == 'the old checkpoint of step 1 could not be deleted: not yours\n'


def test_a_failed_write_on_another_host_is_reported(tmp_path, monkeypatch):
  failed, written = [], []
  store = checkpoints.Store(tmp_path, on_failure=lambda *failure: failed.append(failure), on_written=written.append)
  store.save(1, arrays(1), {})
  while store.is_writing():
    time.sleep(0.01)
  with monkeypatch.context() as patched:
    patched.setattr(jax, 'process_count', lambda: 2)
    patched.setattr(distributed.multihost_utils, 'process_allgather', lambda x: np.array([x, True]))
    store.poll()  # Hosts would not poll at the same time.
    assert not failed and not written
    store.wait()
  (step, error), = failed
  assert step == 1 and 'writing the checkpoint of step 1 failed on host 1; see its log' in str(error) and not written
  store.save(2, arrays(2), {})
  store.wait()
  assert written == [2]


@pytest.mark.parametrize('options, message', [(dict(last=0), 'keep_last is 0'), (dict(every=0), 'keep_every is 0'),
                                              (dict(last='all'), "keep_last is 'all'")])
def test_invalid_retention_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    retention.Kept(**options)


@hypothesis.settings(max_examples=sampling.examples(120, 2000),
                     suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.data())
def test_damaged_checkpoint_files_are_detected(saved, tmp_path_factory, capsys, data):
  directory = tmp_path_factory.mktemp('damaged')
  shutil.copytree(saved / 'checkpoints', directory / 'checkpoints', dirs_exist_ok=True)
  newest = directory / 'checkpoints' / '20'
  path = data.draw(st.sampled_from(sorted(p for p in newest.rglob('*') if p.is_file())))
  content = bytearray(path.read_bytes())
  kind = data.draw(st.sampled_from(['flip', 'cut', 'zero', 'remove', 'add'] if any(content) else ['remove', 'add']))
  if kind == 'flip':
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
  elif kind == 'cut':
    path.write_bytes(content[:data.draw(st.integers(0, len(content) - 1))])
  elif kind == 'zero':
    first = data.draw(st.sampled_from([place for place, byte in enumerate(content) if byte][:999]))
    n = data.draw(st.integers(1, len(content) - first))
    path.write_bytes(content[:first] + bytes(n) + content[first + n:])
  elif kind == 'remove':
    path.unlink()
  else:
    (path.parent / 'more').write_bytes(b'')
  store = checkpoints.Store(directory)
  assert store.newest_sound() == 10
  said = capsys.readouterr().err
  assert f"{str(newest)!r} is damaged" in said and 'the one of step 10 is taken' in said
  assert_equal(store.restore(10, like(arrays(10))), arrays(10))
  with pytest.raises(ValueError, match='is damaged'):
    store.check(20)


@pytest.mark.parametrize('change', [
    lambda text: text[:-1], lambda text: text + '\n', lambda text: text.replace('\n', '\v', 1), str.upper,
    lambda text: '\n'.join(reversed(text.split('\n')))])
def test_a_reformatted_checksum_file_counts_as_damaged(saved, tmp_path, change):
  shutil.copytree(saved / 'checkpoints', tmp_path / 'checkpoints')
  sums = tmp_path / 'checkpoints' / '20' / 'SHA256SUMS'
  sums.write_text(change(sums.read_text()))
  with pytest.raises(ValueError, match='20.* is damaged'):
    checkpoints.Store(tmp_path).check(20)


def test_only_damaged_checkpoints_raise_and_change_nothing(saved, tmp_path):
  shutil.copytree(saved / 'checkpoints', tmp_path / 'checkpoints')
  for step in (10, 20):
    (tmp_path / 'checkpoints' / str(step) / 'notes.json').write_text('{}')
  before = runs.listing(tmp_path)
  with pytest.raises(ValueError, match='all checkpoints in .* are damaged, and nothing was changed'):
    checkpoints.Store(tmp_path).newest_sound(put_aside=True)
  assert runs.listing(tmp_path) == before


def test_the_step_of_a_damaged_checkpoint_can_be_saved_again(saved, tmp_path):
  shutil.copytree(saved / 'checkpoints', tmp_path / 'checkpoints')
  (tmp_path / 'checkpoints' / '20' / 'SHA256SUMS').unlink()
  store = checkpoints.Store(tmp_path)
  assert store.newest_sound(put_aside=True) == 10 and store.steps() == [10]
  store.save(20, arrays(3), {})
  store.wait()
  assert store.newest_sound() == 20
  assert_equal(store.restore(20, like(arrays(3))), arrays(3))


def test_unfinished_checkpoints_are_ignored_and_removed(saved, tmp_path):
  for name in ('20.unfinished', '20.unfinished.orbax-checkpoint-tmp-7', '10.deleted'):
    shutil.copytree(saved / 'checkpoints' / '20', tmp_path / 'checkpoints' / name)
  store = checkpoints.Store(tmp_path)
  assert store.steps() == [] and store.newest_sound() is None and store.best() is None
  store.tidy()
  assert os.listdir(tmp_path / 'checkpoints') == []


def test_saving_a_step_again_never_loses_its_checkpoint(saved, tmp_path, monkeypatch):
  """A new checkpoint replaces the old one of its step; after a kill in between, the old one is recovered."""
  shutil.copytree(saved / 'checkpoints', tmp_path / 'checkpoints')
  store = checkpoints.Store(tmp_path)
  monkeypatch.setattr(shutil, 'rmtree', lambda *_, **__: None)
  store.save(20, arrays(20), {'bits': 1.0})
  store.wait()
  monkeypatch.undo()
  assert store.newest_sound() == store.best() == 20
  shutil.rmtree(tmp_path / 'checkpoints' / '20')
  store.tidy()
  assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['10', '20'
                                                         ] and store.newest_sound() == 20 and store.best() == 10
  (tmp_path / 'checkpoints' / '10.replaced').mkdir()
  store.tidy()
  assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['10', '20'] and store.newest_sound() == 20


def test_restoring_into_another_model_is_refused(saved):
  store = checkpoints.Store(saved)
  other = arrays(0)
  other['weights'][1] = jnp.zeros(4)
  with pytest.raises(ValueError, match=r'array 1 of its weights has shape \(3,\) and type float32 where \(4,\)'):
    store.restore(20, like(other))
  with pytest.raises(ValueError, match='it holds 3 weights where 1 are wanted'):
    store.restore(20, like({'weights': other['weights'][:1]}))
  with pytest.raises(ValueError, match=r'no checkpoint of step 15 .* there are: 10, 20'):
    store.check(15)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path):
  """On a full disk, the failure is reported, the old checkpoint stays, and the next one is written."""
  failed = []
  store = checkpoints.Store(tmp_path, on_failure=lambda step, error: failed.append(step))
  large = lambda seed: {'weights': [jnp.asarray(np.random.RandomState(seed).standard_normal(200_003), jnp.float32)],
                        'state': [], 'slots': []}
  store.save(1, large(1), {})
  store.wait()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
  try:
    store.save(2, large(2), {})
    store.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert failed == [2] and store.steps() == [1] and store.newest_sound() == 1
  assert os.listdir(tmp_path / 'checkpoints') == ['1']
  store.save(3, large(3), {})
  store.wait()
  assert failed == [2] and store.newest_sound() == 3
  assert_equal(store.restore(3, like(large(3))), large(3))
