"""Tests each patch of trax_compat.py: the feature works with the patch and fails without."""

import importlib
import inspect
import logging
import sys
import warnings

import jax
import numpy as np
import pytest
from trax import layers as tl
from trax.data import inputs
from trax.models.research import bert
from trax.supervised import trainer_lib
from trax.supervised import training
from tests.helpers import processes
from tests.helpers import trax_loop


ROOT = processes.ROOT


def test_assert_shape_names_its_line_without_inspect_getmodule(monkeypatch):
  searched = []
  getmodule = inspect.getmodule
  monkeypatch.setattr(inspect, 'getmodule', lambda *args: searched.append(args) or getmodule(*args))

  def message():
    layer = tl.assert_shape('bl->b')(lambda: tl.Fn('Whole', lambda x: x))()
    with pytest.raises(tl.LayerError) as raised:
      layer(np.zeros((2, 3)))
    return str(raised.value)

  line = message.__code__.co_firstlineno + 1
  assert f'Defined at {__file__}:{line}' in message() and not searched
  with trax_loop.without('assert_shape'):
    assert f'Defined at {__file__}:{line}' in message() and searched


def test_tree_unflatten_lets_trax_resume_a_run(tmp_path):
  first = trax_loop.loop(str(tmp_path))
  first.run(2)
  second = trax_loop.loop(str(tmp_path))
  assert second.step == 2
  for a, b in zip(jax.tree.leaves(first.model.weights), jax.tree.leaves(second.model.weights)):
    np.testing.assert_array_equal(a, b)
  with trax_loop.without('tree_unflatten'), pytest.raises(Exception):
    trax_loop.loop(str(tmp_path))


def compilations(caplog, run):
  """Returns the number of compilations of the training step while `run` executes."""
  caplog.clear()
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    run()
  return sum('Compiling jit(single_device_update_fn)' in record.getMessage() for record in caplog.records)


def test_trax_training_step_is_compiled_once(caplog):
  assert compilations(caplog, lambda: trax_loop.loop().run(3)) == 1
  with trax_loop.without('step_compiled_once'):
    assert compilations(caplog, lambda: trax_loop.loop().run(3)) == 2


def test_gzip_mode_does_not_warn(tmp_path):
  trained = trax_loop.loop(str(tmp_path))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    trained.save_checkpoint('model')
  with trax_loop.without('gzip_mode'), pytest.warns(FutureWarning, match='mode'):
    trained.save_checkpoint('model')


def test_host_count_does_not_warn():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert training.init_host_and_devices(random_seed=0)[:2] == (True, 1)
    assert inputs.jax.host_count() == 1
  with trax_loop.without('host_count'), pytest.raises((Warning, AttributeError)), warnings.catch_warnings():
    warnings.simplefilter('error')
    training.init_host_and_devices(random_seed=0)


def test_bert_can_call_jax_tree_map():
  assert bert.jax.tree_map(lambda x: x + 1, {'a': 1}) == {'a': 2}
  with trax_loop.without('tree_map'), pytest.raises(AttributeError):
    bert.jax.tree_map(lambda x: x + 1, {'a': 1})


def test_xla_computation_works_as_trax_calls_it():
  text = trainer_lib.jax.xla_computation(lambda x, y: x + y)(np.float32(1), y=np.float32(2)).as_hlo_text()
  assert 'add(' in text
  with trax_loop.without('xla_computation'), pytest.raises(AttributeError):
    trainer_lib.jax.xla_computation(lambda x: x)


def test_trax_trains_on_two_devices():
  """Trax's own loop trains by `pmap` on two virtual devices, and fails without either of the two patches."""
  process = processes.Command('tests.helpers.many_devices', 'trax_loop',
                              XLA_FLAGS=f'--xla_force_host_platform_device_count=2 {processes.QUICK}')
  _, stderr = process.communicate()
  assert process.returncode == 0, stderr[-3000:]


def test_trax_trainer_imports():
  result = processes.python('-c', 'import trax_hourglass, trax.trainer; print("imported")')
  assert result.stdout == 'imported\n', result.stderr


def test_trax_trainer_does_not_import_without_the_stand_in(monkeypatch):
  monkeypatch.delitem(sys.modules, 'jax.lib.xla_extension')
  monkeypatch.delitem(sys.modules, 'trax.trainer', raising=False)
  with pytest.raises(ImportError, match='xla_extension'):
    importlib.import_module('trax.trainer')
