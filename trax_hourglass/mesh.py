"""All devices of all hosts as one line, along which a batch is divided; each host reads its own rows of it.

A host is one process of `jax.distributed` (see hosts.py); without it there is one. Every host runs the same program with
the same weights, and brings the rows of the batch that lie on its own devices.
"""

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np


def over_devices(n_devices=None):
  """Returns a `Mesh` with the one axis 'batch', each host's devices next to each other.

  Args:
    n_devices: devices in all, as many on each host; None for all there are.

  Raises:
    ValueError: more devices than there are, or a number that does not divide among the hosts.
  """
  n_hosts, present = jax.process_count(), jax.device_count()
  n_devices = present if n_devices is None else n_devices
  if not isinstance(n_devices, int) or not 1 <= n_devices <= present:
    raise ValueError(f'n_devices is {n_devices!r}: give a number from 1 to {present}, the devices that are present')
  if n_devices % n_hosts:
    raise ValueError(f'n_devices is {n_devices}, which does not divide among {n_hosts} hosts: give a multiple of {n_hosts}')
  devices = [device for host in range(n_hosts)
             for device in jax.devices() if device.process_index == host]
  by_host = np.array(devices).reshape(n_hosts, -1)[:, :n_devices // n_hosts]
  # Trax's layers mix arrays without saying how they are sharded, which explicit axes would refuse.
  return Mesh(by_host.ravel(), ('batch',), axis_types=(AxisType.Auto,))


def everywhere(mesh):
  """Returns the sharding of an array that is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def along(mesh, axis):
  """Returns the sharding of an array of which each device holds its share of an axis."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, 'batch'))


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
