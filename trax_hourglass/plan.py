"""Reports the cost of a run before it starts: sizes, operations, memory, and the compiled training step.

    python -m trax_hourglass.plan --config_file F.gin                          the model, in seconds; reads no data
    python -m trax_hourglass.plan --config_file F.gin --topology cpu           and the step, compiled for this machine
    python -m trax_hourglass.plan --config_file F.gin --topology v5e:2x2       for 4 TPUs; or v4, v5p, v6e, h100, h200
"""

import dataclasses
import json

from trax_hourglass.cli import command_line


def main(argv=None):
  """Parses the command line, plans the run, and prints the plan."""
  parser = command_line.parser('plan', __doc__)
  parser.add_argument('--topology', metavar='T', help='compile the training step for it: cpu, v4, v5e, v5p, v6e, TPUs '
                      'with an arrangement such as v5e:2x2, h100, h200; the compiler must be installed, no device')
  parser.add_argument('--n_devices', type=int, metavar='N', help='devices of the topology; default: all of an '
                      'arrangement, one otherwise')
  parser.add_argument('--figure', metavar='FILE.svg', help='draw the hierarchy, .svg or .png')
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  command_line.add_gin_flags(parser)
  args = parser.parse_args(argv)
  with command_line.running(args):
    plan(args)


def plan(args):
  """Plans the run that the parsed arguments configure and prints the result."""
  # pylint: disable=g-import-not-at-top, unused-import
  from trax_hourglass import registry  # Registers with gin.
  from trax_hourglass.planning import compiled_step
  from trax_hourglass.planning import drawing
  from trax_hourglass.planning import figure
  from trax_hourglass.planning import planner
  from trax_hourglass.runtime import gin_config
  gin_config.parse_gin(args.config_file or ['quickstart.gin'], args.config)
  if args.figure is not None:
    figure.check_name(args.figure)
  sizes, step = planner.plan(args.topology, args.n_devices)
  if args.json:
    print(json.dumps({**dataclasses.asdict(sizes), **(dataclasses.asdict(step) if step else {})}))
  else:
    print('\n'.join(drawing.whole(sizes, step)))
  if args.figure is not None:
    figure.write(args.figure, sizes.levels)
  if step is not None:
    compiled_step.check_fits(step)


if __name__ == '__main__':
  main()
