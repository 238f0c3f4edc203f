"""Patches Trax 1.4.1 for current JAX, Python and NumPy, one small patch for each removed or deprecated feature.

Import this module before trax. Each patch names the feature and the version that removed it, and has a test that fails
without the patch (tests/runtime/test_trax_compat.py). The patch can thus be deleted when Trax is updated. Names are
replaced inside Trax's modules only; other code sees JAX, gzip and NumPy unchanged.
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
  """Replaces `inspect.stack`, with frames only: [(frame,), ...], the caller's first."""
  frame, frames = sys._getframe(1), []
  while frame is not None:
    frames.append((frame,))
    frame = frame.f_back
  return frames


def _place(frame):
  """Replaces `inspect.getframeinfo`, with file and line only."""
  return types.SimpleNamespace(filename=frame.f_code.co_filename, lineno=frame.f_lineno)


# Trax's `assert_shape` asks Python for its caller, once per layer class. Python then searches all loaded modules for
# the one of each frame, thousands with TensorFlow. This takes nine tenths of Trax's import time.
_QUICK = {'stack': _frames, 'getframeinfo': _place}

# TensorFlow raises its failures anyway; without a GPU, its log complains when data are first read.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Otherwise, TensorFlow takes all memory of a GPU, which JAX needs, to read a file.
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
# Trax compares with `is ()`, about which Python warns when a module is compiled, with some installers on import.
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

replaced = {}  # Patch name -> [(module or dict, name, previous value)].


def _patch(apply):
  """Applies a patch, a function of `replace(owner, name, new value)`, and records the replaced values."""
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
  """Wraps a module for one of Trax's modules, with some names added or replaced."""

  def __init__(self, module, **names):
    super().__init__(module.__name__)
    self.__dict__.update(names)
    self._module = module

  def __getattr__(self, name):
    return getattr(self._module, name)


@_patch
def assert_shape(replace):
  """Speeds up `assert_shape`, see above, for layers that are defined later as well."""
  replace(sys.modules['trax.layers.assert_shape'], 'inspect', _Module(inspect, **_QUICK))


@_patch
def tree_unflatten(replace):
  """Avoids comparing an array with (), which raises in NumPy 2.x.

  Trax's `tree in copy_from_tree` compares so when a run is resumed.
  """
  original = fastmath.tree_unflatten

  class Markers(list):
    """Holds markers such as () and None, found by type and value, so that no array is ever compared."""

    def __contains__(self, tree):
      return any(type(tree) is type(marker) and tree == marker and not fastmath.tree_leaves(tree) for marker in self)

  @functools.wraps(original)
  def patched(flat, tree, copy_from_tree=None):
    return original(flat, tree, None if copy_from_tree is None else Markers(copy_from_tree))

  replace(fastmath, 'tree_unflatten', patched)


@_patch
def device_put_replicated(replace):
  """Provides `jax.device_put_replicated`, which JAX 0.10 lacks and Trax needs from two devices on."""
  def put(x, devices):
    copies = np.broadcast_to(np.asarray(x), (len(devices),) + np.shape(x))
    return jax.device_put(copies, _one_row_per_device(devices, 'batch'))

  replace(acceleration, 'jax', _Module(jax, device_put_replicated=put))


@_patch
def pmap(replace):
  """Moves arrays to the devices before `pmap`, which since JAX 0.8 rejects committed arrays that are elsewhere."""
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
  """Commits the arguments of a training step, so that the first two steps share one program.

  In the first step, JAX may move the weights, and the learning rate has another type than in the second.
  """
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
  """Passes `GzipFile` the mode, which Trax omits; since Python 3.9, writing without it warns."""
  class GzipFile(gzip.GzipFile):

    def __init__(self, fileobj, compresslevel):
      super().__init__(fileobj=fileobj, mode=fileobj.mode, compresslevel=compresslevel)

  replace(base, 'gzip', _Module(gzip, GzipFile=GzipFile))
  replace(training, 'gzip_lib', _Module(gzip, GzipFile=GzipFile))


@_patch
def host_count(replace):
  """Replaces `jax.host_count` and `jax.host_id` by `process_count` and `process_index`, since JAX 0.3 warns."""
  jax_with_hosts = _Module(jax, host_count=jax.process_count, host_id=jax.process_index)
  for module in (training, inputs, tf_inputs):
    replace(module, 'jax', jax_with_hosts)


@_patch
def tree_map(replace):
  """Replaces `jax.tree_map` by `jax.tree.map`, for JAX 0.6; Trax's BERT uses it to read published weights."""
  replace(bert, 'jax', _Module(jax, tree_map=jax.tree.map))


@_patch
def xla_computation(replace):
  """Provides `jax.xla_computation`, removed in JAX 0.4.36, which Trax uses to save a model's computation on request."""
  def computation(f):
    return lambda *args, **kwargs: jax.jit(f).lower(*args, **kwargs).compiler_ir('hlo')

  replace(trainer_lib, 'jax', _Module(jax, xla_computation=computation))


def xla_extension():
  """Provides `jax.lib.xla_extension`, removed in JAX 0.8 and imported by Trax's command line for GPU clusters."""
  name = 'jax.lib.xla_extension'
  if importlib.util.find_spec(name) is None:
    sys.modules[name] = types.ModuleType(name, 'Stands in for what JAX removed; clusters use jax.distributed now.')


xla_extension()
