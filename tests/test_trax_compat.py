"""Each patch of trax_compat.py: what it mends works, and does not work without it."""

import contextlib
import inspect
import logging
import os
import pathlib
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from trax import layers as tl
from trax import lr
from trax import optimizers
from trax.data import inputs
from trax.models.research import bert
from trax.supervised import trainer_lib
from trax.supervised import training

from trax_hourglass import trax_compat

ROOT = pathlib.Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def without(*names):
  """Takes patches back for a while."""
  undone = [entry for name in names for entry in reversed(trax_compat.replaced[name])]
  now = []
  for owner, name, before in undone:
    if isinstance(owner, dict):
      now.append((owner, name, owner[name]))
      owner[name] = before
    else:
      now.append((owner, name, getattr(owner, name)))
      setattr(owner, name, before)
  try:
    yield
  finally:
    for owner, name, patched in reversed(now):
      if isinstance(owner, dict):
        owner[name] = patched
      else:
        setattr(owner, name, patched)


def loop(output_dir=None):
  """A loop of Trax's own over three numbers, one step at a time."""
  x = np.arange(24, dtype=np.float32).reshape(8, 3) / 24
  batch = (x, x.sum(axis=1, keepdims=True), np.ones((8, 1), np.float32))
  task = training.TrainTask(iter(lambda: batch, None), tl.L2Loss(), optimizers.Adam(0.01),
                            lr_schedule=lr.warmup(2, 0.01), n_steps_per_checkpoint=1)
  return training.Loop(tl.Serial(tl.Dense(4), tl.Dropout(0.0), tl.Dense(1)), [task], output_dir=output_dir,
                       random_seed=0)


def test_assert_shape_names_its_place_without_looking_through_all_modules(monkeypatch):
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
  with without('assert_shape'):
    assert f'Defined at {__file__}:{line}' in message() and searched


def test_tree_unflatten_resumes_a_run(tmp_path):
  first = loop(str(tmp_path))
  first.run(2)
  second = loop(str(tmp_path))
  assert second.step == 2
  for a, b in zip(jax.tree.leaves(first.model.weights), jax.tree.leaves(second.model.weights)):
    np.testing.assert_array_equal(a, b)
  with without('tree_unflatten'), pytest.raises(Exception):
    loop(str(tmp_path))


def compilations(caplog, run):
  """Returns how often the training step is compiled while `run` runs."""
  caplog.clear()
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    run()
  return sum('Compiling jit(single_device_update_fn)' in record.getMessage() for record in caplog.records)


def test_step_is_compiled_once(caplog):
  assert compilations(caplog, lambda: loop().run(3)) == 1
  with without('step_compiled_once'):
    assert compilations(caplog, lambda: loop().run(3)) == 2


def test_gzip_mode_does_not_warn(tmp_path):
  trained = loop(str(tmp_path))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    trained.save_checkpoint('model')
  with without('gzip_mode'), pytest.warns(FutureWarning, match='mode'):
    trained.save_checkpoint('model')


def test_host_count_does_not_warn():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert training.init_host_and_devices(random_seed=0)[:2] == (True, 1)
    assert inputs.jax.host_count() == 1
  with without('host_count'), pytest.raises((Warning, AttributeError)), warnings.catch_warnings():
    warnings.simplefilter('error')
    training.init_host_and_devices(random_seed=0)


def test_tree_map_in_bert():
  assert bert.jax.tree_map(lambda x: x + 1, {'a': 1}) == {'a': 2}
  with without('tree_map'), pytest.raises(AttributeError):
    bert.jax.tree_map(lambda x: x + 1, {'a': 1})


def test_xla_computation_is_as_trax_uses_it():
  text = trainer_lib.jax.xla_computation(lambda x, y: x + y)(np.float32(1), y=np.float32(2)).as_hlo_text()
  assert 'add(' in text
  with without('xla_computation'), pytest.raises(AttributeError):
    trainer_lib.jax.xla_computation(lambda x: x)


def start_python(*arguments, **environment):
  """Starts a fresh interpreter that finds the tests' modules, with captured output."""
  kept = {name: value for name, value in os.environ.items() if name.startswith(('JAX_COMPILATION_CACHE', 'JAX_PERSISTENT_CACHE'))}
  environment = {'PATH': '/usr/bin:/bin', 'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}', **kept, **environment}
  return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                          env=environment)


def python(*arguments, **environment):
  """Runs a fresh interpreter; returns what it printed and its exit code."""
  process = start_python(*arguments, **environment)
  stdout, stderr = process.communicate()
  return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def test_trax_trains_on_two_devices():
  """Trax's own loop by `pmap`, on two virtual devices; each patch undone in turn fails."""
  result = python('tests/many_devices.py', 'trax_loop', XLA_FLAGS='--xla_force_host_platform_device_count=2')
  assert result.returncode == 0, result.stderr[-3000:]


def test_import_is_silent_and_trax_trainer_imports():
  code = 'import trax_hourglass, trax.trainer; print("imported")'
  result = python('-c', code)
  assert (result.stdout, result.stderr) == ('imported\n', '')
  without_stand_in = python('-c', code.replace('trax_hourglass, ', ''))
  assert 'xla_extension' in without_stand_in.stderr and 'absl::InitializeLog' in without_stand_in.stderr


def test_other_messages_are_let_through():
  code = ('from trax_hourglass import trax_compat as c; import os\n'
          'with c._without_noise(): os.write(2, b"I0000 known\\nsomething new\\n")')
  assert python('-c', code).stderr == 'something new\n'
