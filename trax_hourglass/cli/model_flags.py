"""Defines the flags that select a trained model. Imports nothing heavy."""

from trax_hourglass.runtime.errors import InputError


def add(parser):
  """Adds --output_dir, --checkpoint and --pretrained."""
  parser.add_argument('--output_dir', metavar='DIR', help='run directory')
  parser.add_argument('--checkpoint', metavar='WHICH', help="a step of the run, or 'best'; or a file of weights, "
                      '.safetensors or .pkl.gz; default: the newest')
  parser.add_argument('--pretrained', metavar='NAME', help='a model that comes with the package, such as enwik8-small')


def check(args):
  """Checks the flags before anything is loaded.

  Raises:
    InputError: the flags name two models.
  """
  for other in ('output_dir', 'checkpoint', 'config_file'):
    if args.pretrained is not None and getattr(args, other):
      raise InputError(f'--pretrained and --{other} name two models: leave one of them out')


def open_run(args, mode='eval'):
  """Opens the Run that the flags select.

  Args:
    args: parsed flags of `add` and `command_line.add_gin_flags`.
    mode: mode of the model, see `Hourglass`.

  Raises:
    InputError: see `run_directory.load` and `run_directory.pretrained`.
  """
  from trax_hourglass.training import run_directory  # pylint: disable=g-import-not-at-top
  if args.pretrained is not None:
    return run_directory.pretrained(args.pretrained, mode, args.config)
  return run_directory.load(args.output_dir, args.config_file, args.config, mode, args.checkpoint)
