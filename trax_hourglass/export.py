"""Writes the weights of a run as a file in Trax's format.

    python -m trax_hourglass.export --output_dir DIR --to model.pkl.gz             for Hourglass, within Trax
    python -m trax_hourglass.export --output_dir DIR --to model.pkl.gz --authors   for trax.models.HourglassLM
"""

from trax_hourglass.cli import command_line


def main(argv=None):
  """Parses the command line, writes the file, prints one line."""
  parser = command_line.parser('export', __doc__)
  parser.add_argument('--output_dir', metavar='DIR', required=True, help='run directory')
  parser.add_argument('--to', metavar='FILE.pkl.gz', required=True, help='file to write')
  parser.add_argument('--checkpoint', metavar='WHICH', help="a step or 'best'; default: the newest")
  parser.add_argument('--authors', action='store_true', help='in the order that trax.models.HourglassLM reads')
  args = parser.parse_args(argv)
  with command_line.running(args):
    export(args)


def export(args):
  """Writes what the parsed arguments ask for."""
  from trax_hourglass import registry  # Registers with gin.  pylint: disable=g-import-not-at-top, unused-import
  from trax_hourglass.models import interop  # pylint: disable=g-import-not-at-top
  from trax_hourglass.models import trax_checkpoint  # pylint: disable=g-import-not-at-top
  from trax_hourglass.training import run_directory  # pylint: disable=g-import-not-at-top
  trax_checkpoint.check_name(args.to)
  run = run_directory.load(args.output_dir, checkpoint=args.checkpoint)
  if args.authors:
    interop.to_trax(run.model, args.to)
  else:
    trax_checkpoint.write_model(args.to, run.model)
  print(f'weights of step {run.step} are in {args.to}')


if __name__ == '__main__':
  main()
