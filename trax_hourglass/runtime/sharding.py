"""All devices of all hosts as one line, along which a batch is divided; each host reads its own rows of it.

A host is one process of `jax.distributed` (see distributed.py); without it there is one. Every host runs the same
program with the same weights, and brings the rows of the batch that lie on its own devices.

XLA's partitioner divides a program written for the whole batch, but not everything in it: it does not look into Pallas
kernels, nor see that a loop over rows has a share for each device, and lets every device do all of it. Within `divided`
such functions say so by `on_own_rows`.
"""

import functools

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from trax_hourglass.runtime.errors import InputError


# Not 'batch', as Trax's own pmap calls its axis, within which rows are the device's own already.
_ROWS = 'hourglass_rows'


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
  if not isinstance(n_devices, int) or not 1 <= n_devices <= present:
    raise InputError(f'n_devices is {n_devices!r}: give a number from 1 to {present}, the devices that are present')
  if n_devices % n_hosts:
    raise InputError(f'n_devices is {n_devices}, which does not divide among {n_hosts} hosts: give a multiple of '
                     f'{n_hosts}')
  devices = [device for of_host in by_host for device in of_host[:n_devices // n_hosts]]
  # Trax's layers mix arrays without saying how they are sharded, which explicit axes would refuse.
  return Mesh(np.array(devices), (_ROWS,), axis_types=(AxisType.Auto,))


def everywhere(mesh):
  """Returns the sharding of an array that is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def along(mesh, axis):
  """Returns the sharding of an array of which each device holds its share of an axis."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, _ROWS))


def divided(mesh):
  """Returns a context for tracing functions whose batches are divided among the mesh's devices."""
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


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
