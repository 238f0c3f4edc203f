"""Trains and evaluates a list of models under an equal budget, and writes a table and plots.

    python -m trax_hourglass.compare --config_file gin/compare/enwik8_cpu.gin --config "Enwik8.path = 'FILE'"
    python -m trax_hourglass.compare --config_file compare/enwik8_table8.gin --config_file compare/scale/cpu_enwik8.gin
    python -m trax_hourglass.compare --output_dir DIR                resumes the comparison in DIR

Each row has its own folder below DIR. Finished rows are skipped, unfinished rows resume, and failed rows are retried.
The exit code is 1 if any row has failed.
"""

import json
import pathlib
import time

from trax_hourglass.cli import command_line
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import gin_config


def main(argv=None):
  """Parses the command line, runs the comparison, and prints the table."""
  parser = command_line.parser('compare', __doc__)
  command_line.add_gin_flags(parser)
  parser.add_argument('--output_dir', metavar='DIR', help='folder of the comparison; default: runs/compare- and the '
                                                          'date')
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  args = parser.parse_args(argv)
  with command_line.running(args):
    compare(args)


def compare(args):
  """Runs the comparison that the parsed arguments name and prints the result."""
  folder = pathlib.Path(args.output_dir or time.strftime('runs/compare-%Y%m%d-%H%M%S')).expanduser()
  saved = folder / 'comparison.gin'
  if not args.config_file and not saved.exists():
    raise InputError('give a --config_file such as gin/compare/enwik8_cpu.gin, or the --output_dir of a '
                            'comparison')
  from trax_hourglass import registry  # pylint: disable=g-import-not-at-top
  from trax_hourglass.comparison import report  # pylint: disable=g-import-not-at-top
  gin_config.parse_gin(args.config_file or [str(saved)], args.config)
  results = registry.compare(str(folder))
  print(json.dumps(results) if args.json else f'{report.table(results)}\n\nin {folder}')
  if any(row['errors'] for row in results['rows']):
    raise SystemExit(1)


if __name__ == '__main__':
  main()
