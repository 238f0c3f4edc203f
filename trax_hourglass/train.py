"""Trains a model from gin files.

    python -m trax_hourglass.train                      the quickstart: a small Hourglass, 3 minutes on a CPU
    python -m trax_hourglass.train --config_file gin/quickstart.gin --config 'Hourglass.hierarchy = "1@1 4@4 1@1"'
    python -m trax_hourglass.train --output_dir DIR     resumes the run in DIR
"""

import json
import pathlib
import shlex
import sys
import time

from trax_hourglass.cli import command_line
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import gin_config


def main(argv=None):
  """Parses the command line, trains, and prints one line."""
  parser = command_line.parser('train', __doc__)
  command_line.add_gin_flags(parser)
  command_line.add_host_flags(parser)
  parser.add_argument('--output_dir', metavar='DIR', help='run directory; default: runs/ and the date')
  parser.add_argument('--plan', action='store_true', help='print the plan of the run first, as `plan` does')
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  args = parser.parse_args(argv)
  with command_line.running(args):
    train(args)


def train(args):
  """Trains the run that the parsed arguments configure and prints the result."""
  if (args.n_hosts or args.cluster) and not args.output_dir:
    raise InputError('several hosts need --output_dir, the same folder for all of them')
  command_line.connect_hosts(args)
  output_dir = pathlib.Path(args.output_dir or time.strftime('runs/%Y%m%d-%H%M%S')).expanduser()
  saved = output_dir / 'config.gin'
  goes_on = not args.config_file and saved.exists()
  files = args.config_file or [str(saved) if goes_on else 'quickstart.gin']

  from trax_hourglass.runtime import distributed  # pylint: disable=g-import-not-at-top
  with distributed.from_the_start():
    from trax_hourglass import registry  # pylint: disable=g-import-not-at-top
    own = registry.of_older_versions(saved.read_text(encoding='utf-8')) if goes_on else []
    gin_config.parse_gin(files, args.config, own)
    if args.plan:
      from trax_hourglass.planning import planner  # pylint: disable=g-import-not-at-top
      planner.show()
    result = registry.fit(str(output_dir))
  if distributed.is_first():
    python, folder = pathlib.Path(sys.executable).name, shlex.quote(result.output_dir)
    print(json.dumps(result.as_dict()) if args.json else f'{result}; to continue: {python} -m trax_hourglass.train '
          f"--output_dir {folder} --config 'n_steps = {2 * result.step}'")


if __name__ == '__main__':
  main()
