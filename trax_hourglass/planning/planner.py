"""Plans the run of the current gin configuration."""

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
  """Returns (sizes.Sizes, compiled_step.CompiledStep or None) of the run of the current gin configuration.

  Args:
    topology: topology to compile the step for, see topologies.py; None compiles nothing.
    n_devices: number of devices; None for all devices of an arrangement, or one if none is given.

  Raises:
    InputError: the config has no run, the topology or number of devices does not exist, the compiler is not installed,
      or the program does not fit into the device's memory.
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
  """Returns the sizes.Sizes of a run, which do not depend on its devices."""
  return sizes_lib.sizes(settings, step_program.StepProgram(settings, sharding.nowhere()))


def show():
  """Prints the short form of the plan, on the first host."""
  if distributed.is_first():
    for line in drawing.short(sizes(Settings.read())):
      say(line)
