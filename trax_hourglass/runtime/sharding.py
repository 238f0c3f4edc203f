"""All devices of all hosts as one line, along which a batch is divided; each host reads its own rows of it.

A host is one process of `jax.distributed` (see distributed.py); without it there is one. Every host runs the same
program with the same weights, and brings the rows of the batch that lie on its own devices.

XLA's partitioner divides a program written for the whole batch, but not everything in it: it does not look into Pallas
kernels, nor see that a loop over rows has a share for each device, and lets every device do all of it. Within `divided`
such functions say so by `on_own_rows`.

With FSDP (arXiv 2004.13336, 2304.11277) weights, optimizer slots and gradients lie in shares, one a device. Within
`divided` a weight is `gathered` where it is used, and its gradient goes back as a share.

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


# Not 'batch', as Trax's own pmap calls its axis, within which rows are the device's own already.
_ROWS = 'hourglass_rows'
_PLATFORMS = {'cuda': 'gpu', 'rocm': 'gpu'}
# The mesh of the FSDP step that is traced.
_fsdp = contextvars.ContextVar('fsdp', default=None)


def over_devices(n_devices=None):
  """Returns a `Mesh` with one axis, along which batches are divided, each host's devices next to each other.

  Args:
    n_devices: devices in all, as many on each host; None for all there are.

  Raises:
    InputError: more devices than there are, a number that does not divide among the hosts, or hosts with unequal
      numbers.
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
  # Trax's layers mix arrays without saying how they are sharded, which explicit axes would refuse.
  return Mesh(np.array(devices), (_ROWS,), axis_types=(AxisType.Auto,))


def nowhere(n_devices=1, platform_name='cpu'):
  """Returns the `AbstractMesh` of devices that need not exist, for tracing and lowering."""
  return AbstractMesh((n_devices,), (_ROWS,), axis_types=(AxisType.Auto,),
                      abstract_device=AbstractDevice(platform_name, None, platform_name))


def everywhere(mesh):
  """Returns the sharding of an array that is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def along(mesh, axis):
  """Returns the sharding of an array of which each device holds its share of an axis."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, _ROWS))


def share(mesh, shape, in_stack=False):
  """Returns the sharding of a weight, slot or gradient of FSDP: along its longest axis that divides among the devices.

  Of a stack of layers, (N, ...), the first axis serves only if no other does: a layer is not one device's.

  Args:
    mesh: see `over_devices`.
    shape: of the array.
    in_stack: whether the array is a layer of a stack and lies as it does there.
  """
  axes = [axis for axis, size in enumerate(shape) if size % mesh.size == 0]
  axes = [axis for axis in axes if axis or len(shape) == 1 or in_stack] or axes
  return along(mesh, max(axes, key=lambda axis: shape[axis])) if axes else everywhere(mesh)


@contextlib.contextmanager
def divided(mesh, fsdp=False):
  """Is a context for tracing functions whose batches are divided among the mesh's devices.

  Args:
    mesh: a `Mesh`, or an `AbstractMesh` that says for which platform is traced.
    fsdp: whether weights lie in shares.
  """
  abstract = mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh
  token = _fsdp.set(mesh if fsdp and mesh.size > 1 else None)
  try:
    with jax.sharding.use_abstract_mesh(abstract):
      yield
  finally:
    _fsdp.reset(token)


def platform():
  """Returns what is traced for, 'cpu', 'gpu' or 'tpu': the mesh's devices within `divided`, else the default ones."""
  # `jax.default_device` takes a device, or a platform's name.
  device = jax.sharding.get_abstract_mesh().abstract_device or jax.config.jax_default_device
  name = jax.default_backend() if device is None else getattr(device, 'platform', device)
  return _PLATFORMS.get(name, name)


def device_kind():
  """Returns the kind of device, such as 'TPU v5 lite': the mesh's within `divided`, else the default one's."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.devices()[0].device_kind if device is None else str(device.device_kind)


def gathered(weights, in_stack=False):
  """Returns a tree of weights whole on every device; as they are, where they lie so anyway.

  Gradients are added up over the devices and come out as shares.

  Args:
    weights: tree of arrays, shares within `divided` by FSDP.
    in_stack: whether they are a layer of a stack.
  """
  mesh = _fsdp.get()

  def whole(w):
    # Their gradients are constrained likewise: whole first, or XLA would share out the product that one comes from, and
    # activations with it.
    w = jax.lax.with_sharding_constraint(w, share(mesh, w.shape, in_stack))
    return jax.lax.with_sharding_constraint(w, everywhere(mesh))
  return weights if mesh is None else jax.tree.map(whole, weights)


@contextlib.contextmanager
def all_gathered():
  """Is a context for tracing what takes weights that were `gathered` before."""
  token = _fsdp.set(None)
  try:
    yield
  finally:
    _fsdp.reset(token)


def gathers_weights(forward):
  """Decorates a layer's `forward`, by which FSDP gathers its weights, and once more for the gradient; shares are kept.

  For layers outside of stacks, without state, that make nothing again by themselves.
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
  """Returns activations (B, ...) of which FSDP leaves each device its rows."""
  mesh = _fsdp.get()
  return x if mesh is None else jax.lax.with_sharding_constraint(x, along(mesh, 0))


def not_gathered(function, **options):
  """Returns a function for whose gradient FSDP gathers weights again, and keeps what else there is.

  Args:
    function: of trees of arrays.
    **options: further arguments of `jax.checkpoint`.
  """
  if _fsdp.get() is None:
    return function
  keep = lambda primitive, *_, **__: primitive.name != 'sharding_constraint'
  return jax.checkpoint(function, policy=keep, **options)


def on_own_rows(function, in_rows, out_rows):
  """Returns a function of arrays that each device works out for its own rows, where batches are `divided`.

  Args:
    function: takes a function (number of its rows) -> number of the first one, a function that adds up an array over
      all devices, and then the arguments.
    in_rows: for each argument whether its first axis is the batch, as a tree that is a prefix of theirs; arguments of
      which this is not so are whole on every device.
    out_rows: the same for the result.
  """
  if jax.sharding.get_abstract_mesh().shape.get(_ROWS, 1) == 1:
    return functools.partial(function, lambda n_rows: 0, lambda x: x)
  own = functools.partial(function, lambda n_rows: n_rows * jax.lax.axis_index(_ROWS), lambda x: jax.lax.psum(x, _ROWS))
  in_specs, out_specs = jax.tree.map(lambda is_batch: PartitionSpec(*[_ROWS] * is_batch), (in_rows, out_rows))
  # With the check, loops would have to say of each array whether it differs from device to device.
  return jax.shard_map(own, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def place(x, sharding):
  """Returns a copy, on the devices, of an array that is the same on all hosts."""
  x = np.array(x)
  return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def place_rows(batch, mesh):
  """Returns a tree of batches (B, ...) over the mesh, from each host's own rows (B / hosts, ...)."""
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(along(mesh, 0), np.asarray(x)), batch)


def own_copy(tree):
  """Returns a tree of arrays that are whole everywhere as arrays of this host's first device."""
  return jax.tree.map(lambda x: x.addressable_data(0), tree)
