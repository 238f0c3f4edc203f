"""Compiles the training step with a platform's own compiler; reports memory, collectives, products and a time bound."""

import dataclasses
import os
import re
import time

from trax_hourglass.ops import attention as attention_lib
from trax_hourglass.planning import program_text
from trax_hourglass.planning import sizes as sizes_lib
from trax_hourglass.planning import topologies
from trax_hourglass.runtime.errors import InputError

_HELP = ("set Hourglass.recompute = 'blocks', fit.accumulate = 2 or more, or fit.loss_chunk; on more devices "
         'fit.shard_weights = True')
# Messages of libtpu, for a program that its scheduler could place and for a program far too large.
_EXHAUSTED = re.compile(r'Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm|'
                        r'temporaries \(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)')


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """Holds figures of a compiled step; the names are those of `plan --json`, bytes are per device.

  Attributes:
    topology: name of the topology.
    n_devices: number of devices of the program.
    temporary_bytes: temporaries of the step.
    argument_bytes: weights, state, slots and the batch.
    device_bytes: total memory of the step; results reuse the memory of donated arguments.
    memory_bytes: memory of a device; for CPUs, the machine's memory divided among the devices.
    fits: whether device_bytes fit into memory_bytes.
    collectives: {kind: {'count', 'bytes'}} per step, with every iteration of loops counted.
    products: {'bf16 x bf16 -> f32': count} of matrix products.
    compile_seconds: time to compile, without tracing.
    lower_bound_seconds: lower bound on the time per step, the longer of two times: the model's FLOPs at the published
      peak, and reading arguments and writing results once at the memory bandwidth. None for CPUs, which have no
      published figures.
    estimated_cycles: cycles of a TPU core per step: the compiler's estimates by kernel plus the bundles of attention's
      kernels (ops/tpu_layout.py). None on other platforms.
    estimated_seconds: estimated_cycles at the device's clock; None if the clock is unknown.
    attention: forms of attention in the program, see ops/attention.py.
  """
  topology: str
  n_devices: int
  temporary_bytes: int
  argument_bytes: int
  device_bytes: int
  memory_bytes: int
  fits: bool
  collectives: dict
  products: dict
  compile_seconds: float
  lower_bound_seconds: float | None
  estimated_cycles: int | None
  estimated_seconds: float | None
  attention: tuple[str, ...]


def compile_step(program, topology, n_devices, dtype, step_flops):
  """Returns the CompiledStep of a program.

  Args:
    program: step_program.StepProgram for the topology's devices.
    topology: name of the topology, see topologies.py.
    n_devices: number of devices.
    dtype: type of the step's products.
    step_flops: FLOPs per step, or None.

  Raises:
    InputError: the compiler cannot fit the program into the device's memory.
  """
  with attention_lib.recording() as forms:
    lowered = program.traced().lower()
  started = time.perf_counter()
  try:
    compiled = lowered.compile()
  except Exception as error:  # Compilers' errors are of several types.
    found = _EXHAUSTED.search(str(error))
    if found is None and 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    by = 'its compiler says so'
    if found is not None:
      needs, has = (words for words in found.groups() if words)
      over = f', {float(needs[:-1]) - float(has[:-1]):.2f}{has[-1]} too much' if needs[-1] == has[-1] else ''
      by = f'it needs {needs} of {has}{over}'
    raise InputError(f'the step does not fit into the memory of {topology}: {by}; {_HELP}') from error
  seconds = time.perf_counter() - started
  _, chip, _ = topologies.chip(topology)
  memory, found = compiled.memory_analysis(), program_text.instructions(compiled.as_text())
  arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
  in_all = arguments + memory.temp_size_in_bytes + outputs - memory.alias_size_in_bytes
  room = chip.memory_bytes or os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // n_devices
  bounds = [(arguments + outputs) / chip.bandwidth] if chip.bandwidth else []
  if chip.flops and step_flops:
    bounds.append(step_flops / n_devices / chip.flops[dtype])
  cycles = program_text.cycles(found) if chip.platform == 'tpu' else None
  return CompiledStep(
      topology=topology, n_devices=n_devices, temporary_bytes=memory.temp_size_in_bytes, argument_bytes=arguments,
      device_bytes=in_all, memory_bytes=room, fits=in_all <= room, collectives=program_text.collectives(found),
      products=dict(program_text.products(found)), compile_seconds=seconds,
      lower_bound_seconds=max(bounds, default=None),
      estimated_cycles=cycles, estimated_seconds=cycles / chip.clock if cycles and chip.clock else None,
      attention=tuple(sorted(forms)))


def check_fits(step):
  """Raises InputError unless a CompiledStep fits."""
  if not step.fits:
    takes, has, over = map(sizes_lib.readable, (
        step.device_bytes, step.memory_bytes, step.device_bytes - step.memory_bytes))
    raise InputError(f'the step takes {takes} of a device of {step.topology}, which has {has}: {over} too much; '
                     f'{_HELP}')
