"""Shards batches, and with FSDP weights, over all devices of all hosts, which form a mesh with one axis.

A host is one process of `jax.distributed` (see distributed.py); without it there is one host. Every host runs the same
program with the same weights, and reads the rows of the batch that lie on its own devices.

XLA's partitioner shards a program written for the whole batch, with two exceptions: Pallas kernels and loops over rows.
Every device would run these on all rows. Within `divided`, they are therefore wrapped in `on_own_rows`.

With FSDP (arXiv 2004.13336, 2304.11277), weights, optimizer slots and gradients are sharded, one shard per device.
Within `divided`, a weight is `gathered` where it is used, and its gradient is returned as a shard.

Letters: N layers of a stack.
"""

import contextlib
import contextvars
import functools

import jax
from jax.sharding import AbstractDevice
from jax.sharding import AbstractMesh
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError


# Not 'batch', the axis of Trax's own pmap, within which rows are already the device's own.
_ROWS = 'hourglass_rows'
_PLATFORMS = {'cuda': 'gpu', 'rocm': 'gpu'}
# The mesh of the FSDP step being traced.
_fsdp = contextvars.ContextVar('fsdp', default=None)


def over_devices(n_devices=None):
  """Returns a `Mesh` with one axis, over which batches are sharded, each host's devices being adjacent.

  Args:
    n_devices: devices in total, the same number on each host; None for all.

  Raises:
    InputError: more devices than exist, a number that does not divide among the hosts, or hosts with unequal numbers.
  """
  n_hosts, present = jax.process_count(), jax.device_count()
  n_devices = present if n_devices is None else n_devices
  by_host = [[device for device in jax.devices() if device.process_index == host] for host in range(n_hosts)]
  if len(set(map(len, by_host))) > 1:
    raise InputError(f'hosts have {", ".join(str(len(devices)) for devices in by_host)} devices: give each host as '
                     'many')
  if not checks.is_whole(n_devices) or not 1 <= n_devices <= present:
    raise InputError(f'n_devices is {n_devices!r}: give a number from 1 to {present}, the devices that are present')
  if n_devices % n_hosts:
    raise InputError(f'n_devices is {n_devices}, which does not divide among {n_hosts} hosts: give a multiple of '
                     f'{n_hosts}')
  return in_line([device for of_host in by_host for device in of_host[:n_devices // n_hosts]])


def in_line(devices):
  """Returns the `Mesh` of devices with one axis."""
  # Trax's layers mix arrays of unspecified sharding, which explicit axes would reject.
  return Mesh(np.array(devices), (_ROWS,), axis_types=(AxisType.Auto,))


def nowhere(n_devices=1, platform_name='cpu'):
  """Returns the `AbstractMesh` of devices that need not exist, for tracing and lowering."""
  return AbstractMesh((n_devices,), (_ROWS,), axis_types=(AxisType.Auto,),
                      abstract_device=AbstractDevice(platform_name, None, platform_name))


def everywhere(mesh):
  """Returns the sharding of an array that is replicated on every device."""
  return NamedSharding(mesh, PartitionSpec())


def along(mesh, axis):
  """Returns the sharding of an array whose given axis is divided among the devices."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, _ROWS))


def share(mesh, shape, in_stack=False):
  """Returns the FSDP sharding of a weight, slot or gradient: along its longest axis that divides among the devices.

  In a stack of layers, (N, ...), the first axis is a last resort, so that no device holds a whole layer alone.

  Args:
    mesh: see `over_devices`.
    shape: shape of the array.
    in_stack: whether the array is a layer of a stack and is sharded as in the stack.
  """
  axes = [axis for axis, size in enumerate(shape) if size % mesh.size == 0]
  axes = [axis for axis in axes if axis or len(shape) == 1 or in_stack] or axes
  return along(mesh, max(axes, key=lambda axis: shape[axis])) if axes else everywhere(mesh)


@contextlib.contextmanager
def divided(mesh, fsdp=False):
  """Provides the context for tracing functions whose batches are sharded over the mesh's devices.

  Args:
    mesh: a `Mesh`, or an `AbstractMesh` that names the target platform.
    fsdp: whether weights are sharded.
  """
  abstract = mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh
  token = _fsdp.set(mesh if fsdp and mesh.size > 1 else None)
  try:
    with jax.sharding.use_abstract_mesh(abstract):
      yield
  finally:
    _fsdp.reset(token)


def platform():
  """Returns the platform of tracing, 'cpu', 'gpu' or 'tpu': the mesh's within `divided`, else the default."""
  # `jax.default_device` takes a device, or a platform's name.
  device = jax.sharding.get_abstract_mesh().abstract_device or jax.config.jax_default_device
  name = jax.default_backend() if device is None else getattr(device, 'platform', device)
  return _PLATFORMS.get(name, name)


def device_kind():
  """Returns the kind of device, such as 'TPU v5 lite': the mesh's within `divided`, else the default one's."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.devices()[0].device_kind if device is None else str(device.device_kind)


def gathered(weights, in_stack=False):
  """Gathers a tree of weights on every device; without FSDP, returns the weights as they are.

  Gradients are summed over the devices and returned as shards.

  Args:
    weights: tree of arrays, sharded within `divided` with FSDP.
    in_stack: whether the weights are a layer of a stack.
  """
  mesh = _fsdp.get()

  def whole(w):
    # Gradients are constrained in reverse: replicated first, or XLA would shard the matmul that computes a gradient,
    # and its activations.
    w = jax.lax.with_sharding_constraint(w, share(mesh, w.shape, in_stack))
    return jax.lax.with_sharding_constraint(w, everywhere(mesh))
  return weights if mesh is None else jax.tree.map(whole, weights)


@contextlib.contextmanager
def all_gathered():
  """Provides the context for tracing code whose weights are already `gathered`."""
  token = _fsdp.set(None)
  try:
    yield
  finally:
    _fsdp.reset(token)


def gathers_weights(forward):
  """Decorates a layer's `forward`: FSDP gathers its weights, again for the gradient, and saves only shards.

  Serves stateless layers outside of stacks that do not rematerialize by themselves.
  """
  @functools.wraps(forward)
  def gathering(layer, inputs):
    if _fsdp.get() is None:
      return forward(layer, inputs)
    shares = layer.weights

    def run(inputs, weights):
      layer.weights = gathered(weights)
      try:
        with all_gathered():
          return forward(layer, inputs)
      finally:
        layer.weights = shares
    return not_gathered(run)(inputs, shares)

  gathering.gathers_weights = True
  return gathering


def own_rows(x):
  """Constrains activations (B, ...) of FSDP to be sharded by rows."""
  mesh = _fsdp.get()
  return x if mesh is None else jax.lax.with_sharding_constraint(x, along(mesh, 0))


def not_gathered(function, **options):
  """Wraps a function: for its gradient, FSDP gathers weights again and saves everything else.

  Args:
    function: function of trees of arrays.
    **options: further arguments of `jax.checkpoint`.
  """
  if _fsdp.get() is None:
    return function
  keep = lambda primitive, *_, **__: primitive.name != 'sharding_constraint'
  return jax.checkpoint(function, policy=keep, **options)


def on_own_rows(function, in_rows, out_rows):
  """Wraps a function of arrays so that each device computes its own rows, where batches are `divided`.

  Args:
    function: takes two functions, and then the arguments. The first one maps the number of local rows to the index of
      the first local row in the batch. The second one sums an array over all devices.
    in_rows: whether each argument's first axis is the batch, as a prefix of the arguments' tree; other arguments are
      replicated.
    out_rows: the same for the result.
  """
  if jax.sharding.get_abstract_mesh().shape.get(_ROWS, 1) == 1:
    return functools.partial(function, lambda n_rows: 0, lambda x: x)
  own = functools.partial(function, lambda n_rows: n_rows * jax.lax.axis_index(_ROWS), lambda x: jax.lax.psum(x, _ROWS))
  in_specs, out_specs = jax.tree.map(lambda is_batch: PartitionSpec(*[_ROWS] * is_batch), (in_rows, out_rows))
  # With the check, loops would have to declare which arrays differ between devices.
  return jax.shard_map(own, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def place(x, sharding):
  """Copies an array that is the same on all hosts to the devices."""
  x = np.array(x)
  return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def place_rows(batch, mesh):
  """Returns a tree of batches (B, ...) sharded over the mesh, from each host's own rows (B / hosts, ...)."""
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(along(mesh, 0), np.asarray(x)), batch)


def own_copy(tree):
  """Returns the copy of a tree of replicated arrays on this host's first device."""
  return jax.tree.map(lambda x: x.addressable_data(0), tree)
