"""Writes the weights of a run to one file.

    python -m trax_hourglass.export --output_dir DIR --to model.safetensors        with names and config, for anything
    python -m trax_hourglass.export --output_dir DIR --to model.pkl.gz             for Hourglass, within Trax
    python -m trax_hourglass.export --output_dir DIR --to model.pkl.gz --authors   for trax.models.HourglassLM
"""

from trax_hourglass.cli import command_line


def main(argv=None):
  """Parses the command line, writes the file, and prints one line."""
  parser = command_line.parser('export', __doc__)
  parser.add_argument('--output_dir', metavar='DIR', required=True, help='run directory')
  parser.add_argument('--to', metavar='FILE', required=True, help='file to write, .safetensors or .pkl.gz')
  parser.add_argument('--checkpoint', metavar='WHICH', help="a step or 'best'; default: the newest")
  parser.add_argument('--dtype', default='float32', choices=('float32', 'float16'), help='of the weights in a '
                      '.safetensors; default: float32')
  parser.add_argument('--config', action='append', default=[], metavar="'X.y = z'",
                      help='gin binding for the config in the file, such as one that names no place of data')
  parser.add_argument('--authors', action='store_true', help='in the order that trax.models.HourglassLM reads')
  args = parser.parse_args(argv)
  with command_line.running(args):
    export(args)


def export(args):
  """Exports the run that the parsed arguments name."""
  from trax_hourglass import registry  # Registers with gin.  pylint: disable=g-import-not-at-top, unused-import
  from trax_hourglass.training import export_run  # pylint: disable=g-import-not-at-top
  step = export_run.export(args.output_dir, args.to, args.checkpoint, args.authors, args.dtype, args.config)
  print(f'weights of step {step} are in {args.to}')


if __name__ == '__main__':
  main()
