"""Plans the run that gin is configured for."""

from trax_hourglass.planning import compiled_step
from trax_hourglass.planning import drawing
from trax_hourglass.planning import sizes as sizes_lib
from trax_hourglass.planning import step_program
from trax_hourglass.planning import topologies
from trax_hourglass.runtime import distributed
from trax_hourglass.runtime import sharding
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime.progress import say
from trax_hourglass.runtime.progress import ticking
from trax_hourglass.training.settings import Settings


def plan(topology=None, n_devices=None):
  """Returns (sizes.Sizes, compiled_step.CompiledStep or None) of the run that gin is configured for.

  Args:
    topology: what the step is compiled for, see topologies.py; None compiles nothing.
    n_devices: devices of the topology; None for all of an arrangement, one otherwise.

  Raises:
    InputError: a config without a run, a topology or number of devices that there is not, a compiler that is not
      installed, or a program that finds no room on the device.
  """
  if topology is None and n_devices is not None:
    raise InputError(f'--n_devices is {n_devices} without --topology: give one, such as cpu or v5e:2x2')
  topologies.prepare(topology, n_devices)
  settings = Settings.read()
  if topology is None:
    return sizes(settings), None
  mesh = topologies.mesh(topology, n_devices)
  program = step_program.StepProgram(settings, mesh)
  found = sizes_lib.sizes(settings, program)
  with ticking(f'compiling for {mesh.size} of {topology}'):
    return found, compiled_step.compile_step(program, topology, mesh.size, settings.dtype, found.step_flops)


def sizes(settings):
  """Returns the sizes.Sizes of a run, whatever devices it will have."""
  return sizes_lib.sizes(settings, step_program.StepProgram(settings, sharding.nowhere()))


def show():
  """Says the short form of the plan, on the first host."""
  if distributed.is_first():
    for line in drawing.short(sizes(Settings.read())):
      say(line)
