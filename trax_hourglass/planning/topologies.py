"""Describes accelerators that programs can be compiled for in their absence: names, published figures, devices.

A topology is a chip and its arrangement, such as 'v5e:2x2'; a chip alone is one device of the smallest arrangement.
Peaks and memory are the makers' figures without sparsity (cloud.google.com/tpu/docs, NVIDIA's data sheets of H100 SXM
and H200 SXM).
"""

import contextlib
import dataclasses
import importlib.util
import os
import re

import jax
from jax.experimental import topologies as jax_topologies

from trax_hourglass.runtime import sharding
from trax_hourglass.runtime.errors import InputError

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Describes a kind of device.

  Attributes:
    platform: 'cpu', 'tpu' or 'gpu'.
    shape: smallest arrangement that the compiler takes; None for CPUs and GPUs, which have no arrangement.
    memory_bytes: memory of one device; None for CPUs, which share the machine's memory.
    flops: {dtype: peak FLOPs per second of matrix products}; 'float32' with JAX's default precision.
    bandwidth: memory bandwidth in bytes per second.
    clock: cycles per second of a TPU with one core; None if unknown.
  """
  platform: str
  shape: str | None = None
  memory_bytes: int | None = None
  flops: dict = dataclasses.field(default_factory=dict)
  bandwidth: float | None = None
  clock: float | None = None


def _tpu(shape, gib, flops, bandwidth, clock=None):
  # By default, TPUs round the factors of float32 products to bfloat16.
  return Chip('tpu', shape, int(gib * _GIB), {'bfloat16': flops, 'float32': flops}, bandwidth, clock)


def _gpu(memory_bytes, bandwidth):
  return Chip('gpu', None, memory_bytes, {'bfloat16': 989e12, 'float32': 494e12}, bandwidth)


CHIPS = {
    'cpu': Chip('cpu'),
    'v4': _tpu('2x2x1', 16, 137.5e12, 614e9),  # A device is one of a chip's two cores.
    'v5e': _tpu('2x2', 16, 197e12, 819e9, 1.5e9),  # Clock from the peak, with four units of 128 x 128 products.
    'v5p': _tpu('2x2x1', 95, 459e12, 2765e9),
    'v6e': _tpu('2x2', 32, 918e12, 1640e9),
    'h100': _gpu(84942979072, 3.35e12),
    'h200': _gpu(150754820096, 4.8e12),
}
_ENVIRONMENT = {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_WORKER_HOSTNAMES': 'localhost',
                'TPU_WORKER_ID': '0', 'TPU_ACCELERATOR_TYPE': 'v5litepod-4'}


def chip(topology):
  """Returns the (name, Chip, arrangement or None) of a topology.

  Raises:
    InputError: the topology does not exist.
  """
  name, _, shape = topology.partition(':')
  known = CHIPS.get(name)
  if known is None or shape and (known.shape is None or len(shape.split('x')) != len(known.shape.split('x')) or not
                                 re.fullmatch(r'[1-9]\d*(x[1-9]\d*)+', shape)):
    examples = ', '.join(f'{one}:{of.shape}' if of.shape else one for one, of in CHIPS.items())
    raise InputError(f'--topology is {topology!r}: choose one of {", ".join(CHIPS)}, TPUs with an arrangement if need '
                     f'be, as in {examples}')
  return name, known, shape or None


def prepare(topology, n_devices):
  """Configures JAX and the environment before JAX finds its devices, which are CPUs here for any topology.

  Args:
    topology: name of the topology, or None.
    n_devices: number of devices of the program, or None for the default of `mesh`.

  Raises:
    InputError: the topology is unknown, its compiler's package is missing, or the number of devices is below 1.
  """
  jax.config.update('jax_platforms', 'cpu')
  if topology is None:
    return
  _, kind, _ = chip(topology)
  if n_devices is not None and n_devices < 1:
    raise InputError(f'--n_devices is {n_devices}: give a number above 0')
  if kind.platform == 'cpu' and (n_devices or 1) > 1:
    with contextlib.suppress(RuntimeError):  # JAX already has its devices, as in a notebook; these stay.
      jax.config.update('jax_num_cpu_devices', n_devices)
  if kind.platform == 'tpu':
    if importlib.util.find_spec('libtpu') is None:
      raise InputError(f"--topology {topology} needs the TPU's compiler: pip install 'jax[tpu]'; or give --topology "
                       'cpu')
    for name, value in _ENVIRONMENT.items():
      os.environ.setdefault(name, value)
  if kind.platform == 'gpu':
    if not any(importlib.util.find_spec(f'jax_cuda{version}_plugin') for version in (12, 13)):
      raise InputError(f"--topology {topology} needs the GPU's compiler: pip install 'jax[cuda12]'; or give --topology "
                       'cpu')
    flag = '--xla_gpu_autotune_level=0'  # Autotuning needs a GPU.
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'.strip()


def mesh(topology, n_devices):
  """Returns the `Mesh` of a topology's first devices.

  The default number is all devices of an arrangement, and one for a chip alone.

  Raises:
    InputError: the topology has too few devices, or the compiler refuses the arrangement.
  """
  name, kind, shape = chip(topology)
  if kind.platform == 'cpu':
    devices = jax.devices('cpu')
    n_devices = n_devices or 1
  elif kind.platform == 'gpu':
    n_devices = n_devices or 1
    devices = jax_topologies.get_topology_desc(
        platform='cuda', topology_name=name, target_config=_gpu_target(name, kind), topology=f'1x1x{n_devices}').devices
  else:
    try:
      devices = jax_topologies.get_topology_desc(platform='tpu', topology_name=f'{name}:{shape or kind.shape}').devices
    except Exception as error:  # XLA's errors do not have their own class in all versions.
      raise InputError(f'--topology {topology}: the compiler does not know this arrangement: '
                       f'{" ".join(str(error).split())[:200]}') from error
    n_devices = n_devices or (len(devices) if shape else 1)
  if n_devices > len(devices):
    raise InputError(f'--n_devices is {n_devices}: {topology} has {len(devices)}')
  return sharding.in_line(devices[:n_devices])


def _gpu_target(name, kind):
  """Returns XLA's description of a Hopper GPU, a GpuTargetConfigProto as text."""
  numbers = {
      'threads_per_block_limit': 1024, 'threads_per_warp': 32, 'shared_memory_per_block': 49152,
      'shared_memory_per_core': 233472, 'threads_per_core_limit': 2048, 'core_count': 132, 'fpus_per_core': 128,
      'block_dim_limit_x': 2147483647, 'block_dim_limit_y': 65535, 'block_dim_limit_z': 65535,
      'memory_bandwidth': int(kind.bandwidth), 'l2_cache_size': 52428800, 'clock_rate_ghz': 1.98,
      'device_memory_size': kind.memory_bytes, 'shared_memory_per_block_optin': 232448,
      'registers_per_core_limit': 65536, 'registers_per_block_limit': 65536, 'thread_dim_limit_x': 1024,
      'thread_dim_limit_y': 1024, 'thread_dim_limit_z': 64}
  texts = {'device_vendor': 'NVIDIA Corporation', 'name': f'NVIDIA {name.upper()}', 'driver_version': '13.0.0',
           'runtime_version': '12.9.0', 'compile_time_toolkit_version': '12.9.0', 'dnn_version': '9.10.0'}
  info = [*(f'{key}: {value}' for key, value in numbers.items()),
          *(f'{key}: "{value}"' for key, value in texts.items()), 'cuda_compute_capability { major: 9 }']
  return (f'gpu_device_info {{ {" ".join(info)} }} platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: '
          f'0 }} device_description_str: "NVIDIA {name.upper()}"')
