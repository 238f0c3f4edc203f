"""Trax 1.4.1 on today's JAX: one small patch for each thing that JAX, Python or NumPy removed or now warns about.

Import this before trax. Each patch names what went and since when, and has a test that fails without it
(tests/runtime/test_trax_compat.py), so that it can be deleted when Trax moves. Names are replaced inside Trax's modules
only; JAX, gzip and NumPy stay as they are for everybody else.
"""

import functools
import importlib.util
import inspect
import os
import sys
import types
from unittest import mock
import warnings

from trax_hourglass.runtime import deferred_imports


def _frames():
  """Stands in for `inspect.stack` where only frames are wanted: [(frame,), ...], the caller's first."""
  frame, frames = sys._getframe(1), []
  while frame is not None:
    frames.append((frame,))
    frame = frame.f_back
  return frames


def _place(frame):
  """Stands in for `inspect.getframeinfo` where only file and line are wanted."""
  return types.SimpleNamespace(filename=frame.f_code.co_filename, lineno=frame.f_lineno)


# Trax's `assert_shape` asks Python where it was called from, once a layer class. Python then looks for the module of
# each frame among all that are loaded, thousands with TensorFlow: nine tenths of the time that importing Trax takes.
_QUICK = {'stack': _frames, 'getframeinfo': _place}

# What fails in TensorFlow is raised too; without a GPU it complains when data are first read.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Or it takes all memory of a GPU, which JAX needs, to read a file.
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
# Trax compares with `is ()`, which Python says when it compiles a module; installers that compile none leave it that.
warnings.filterwarnings('ignore', category=SyntaxWarning, module=r'.*[/\\](trax|gym)[/\\]')
with deferred_imports.deferred(), mock.patch.multiple(inspect, **_QUICK):
  import gzip

  import jax
  import numpy as np
  from trax import fastmath
  from trax import layers as tl
  from trax.data import inputs
  from trax.data import tf_inputs
  from trax.fastmath import jax as fastmath_jax
  from trax.layers import acceleration
  from trax.layers import base
  from trax.models.research import bert
  from trax.optimizers import trainer
  from trax.supervised import trainer_lib
  from trax.supervised import training

replaced = {}  # Patch name -> [(module or dict, name, value before)].


def _patch(apply):
  """Applies a patch, a function that is handed `replace(owner, name, new value)`, and records what it replaced."""
  before = replaced[apply.__name__] = []

  def replace(owner, name, value):
    if isinstance(owner, dict):
      before.append((owner, name, owner[name]))
      owner[name] = value
    else:
      before.append((owner, name, getattr(owner, name)))
      setattr(owner, name, value)

  apply(replace)


class _Module(types.ModuleType):
  """A module as one of Trax's modules shall see it: another module, with some names added or replaced."""

  def __init__(self, module, **names):
    super().__init__(module.__name__)
    self.__dict__.update(names)
    self._module = module

  def __getattr__(self, name):
    return getattr(self._module, name)


@_patch
def assert_shape(replace):
  """Not removed but slow, see above: layers of ours and of others that are defined later ask too."""
  replace(sys.modules['trax.layers.assert_shape'], 'inspect', _Module(inspect, **_QUICK))


@_patch
def tree_unflatten(replace):
  """NumPy 2.x: comparing an array with () raises, which `tree in copy_from_tree` does when a run is resumed."""
  original = fastmath.tree_unflatten

  class Markers(list):
    """Marks like () and None, found by type and value, so that no array is ever compared."""

    def __contains__(self, tree):
      return any(type(tree) is type(marker) and tree == marker and not fastmath.tree_leaves(tree) for marker in self)

  @functools.wraps(original)
  def patched(flat, tree, copy_from_tree=None):
    return original(flat, tree, None if copy_from_tree is None else Markers(copy_from_tree))

  replace(fastmath, 'tree_unflatten', patched)


@_patch
def device_put_replicated(replace):
  """JAX 0.10 has no `jax.device_put_replicated`; Trax needs it as soon as there are two devices."""
  def put(x, devices):
    copies = np.broadcast_to(np.asarray(x), (len(devices),) + np.shape(x))
    return jax.device_put(copies, _one_row_per_device(devices, 'batch'))

  replace(acceleration, 'jax', _Module(jax, device_put_replicated=put))


@_patch
def pmap(replace):
  """JAX 0.8: `pmap` refuses committed arrays that do not lie on its devices yet; Trax leaves the move to it."""
  @functools.wraps(jax.pmap)
  def patched(f, axis_name, **options):
    mapped = jax.pmap(f, axis_name, **options)
    sharding = _one_row_per_device(jax.local_devices(), axis_name)
    return lambda *args: mapped(*jax.tree.map(lambda x: jax.device_put(x, sharding), args))

  replace(fastmath_jax.JAX_BACKEND, 'pmap', patched)


def _one_row_per_device(devices, axis_name):
  mesh = jax.sharding.Mesh(np.array(devices), (axis_name,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis_name))


@_patch
def step_compiled_once(replace):
  """The first training step has weights that JAX may move and a learning rate of another type than the second has."""
  original = trainer._accelerate_update_fn

  @functools.wraps(original)
  def patched(forward_and_backward_fn, optimizer, n_devices, **options):
    update = original(forward_and_backward_fn, optimizer, n_devices=n_devices, **options)
    if n_devices > 1:
      return update
    device = jax.local_devices()[0]

    def committed(x):
      return jax.device_put(x if isinstance(x, jax.Array) else np.asarray(x), device)

    return lambda *args: update(*jax.tree.map(committed, args))

  replace(trainer, '_accelerate_update_fn', patched)


@_patch
def gzip_mode(replace):
  """Python 3.9: `GzipFile` warns on writing unless it is told the mode; Trax leaves it to be guessed."""
  class GzipFile(gzip.GzipFile):

    def __init__(self, fileobj, compresslevel):
      super().__init__(fileobj=fileobj, mode=fileobj.mode, compresslevel=compresslevel)

  replace(base, 'gzip', _Module(gzip, GzipFile=GzipFile))
  replace(training, 'gzip_lib', _Module(gzip, GzipFile=GzipFile))


@_patch
def host_count(replace):
  """JAX 0.3: `jax.host_count` and `jax.host_id` became `process_count` and `process_index`, and warn."""
  jax_with_hosts = _Module(jax, host_count=jax.process_count, host_id=jax.process_index)
  for module in (training, inputs, tf_inputs):
    replace(module, 'jax', jax_with_hosts)


@_patch
def tree_map(replace):
  """JAX 0.6: `jax.tree_map` is `jax.tree.map`; Trax's BERT uses it to read published weights."""
  replace(bert, 'jax', _Module(jax, tree_map=jax.tree.map))


@_patch
def xla_computation(replace):
  """JAX 0.4.36: `jax.xla_computation` went; Trax saves a model's computation with it when asked to."""
  def computation(f):
    return lambda *args, **kwargs: jax.jit(f).lower(*args, **kwargs).compiler_ir('hlo')

  replace(trainer_lib, 'jax', _Module(jax, xla_computation=computation))


def xla_extension():
  """JAX 0.8: `jax.lib.xla_extension` went, which `trax.trainer`, Trax's command line, imports for GPU clusters."""
  name = 'jax.lib.xla_extension'
  if importlib.util.find_spec(name) is None:
    sys.modules[name] = types.ModuleType(name, 'Stands in for what JAX removed; clusters use jax.distributed now.')


xla_extension()
