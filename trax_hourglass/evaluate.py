"""Scores a trained model in bits per byte, or per dim for images.

    python -m trax_hourglass.evaluate --output_dir DIR                         the valid split of the run's corpus
    python -m trax_hourglass.evaluate --output_dir DIR --split test --protocol paper
    python -m trax_hourglass.evaluate --pretrained enwik8-small                a model that comes with the package
    python -m trax_hourglass.evaluate --checkpoint model.pkl.gz --config_file gin/paper/trax_enwik8.gin --protocol paper
                                                                  a checkpoint of trax.models.HourglassLM
    python -m trax_hourglass.evaluate --output_dir DIR --check_causality       checks that no output sees the future
"""

from trax_hourglass.cli import command_line
from trax_hourglass.cli import model_flags


def main(argv=None):
  """Parses the command line, scores the model, and prints one line."""
  parser = command_line.parser('evaluate', __doc__)
  model_flags.add(parser)
  parser.add_argument('--split', default='valid', metavar='NAME', help='train, valid (default) or test')
  parser.add_argument('--protocol', metavar='NAME', help="'paper': windows of 4096 with stride 128; "
                      "'notebook': of 6912; 'ablation': of 2048 without context; all score images whole")
  parser.add_argument('--context', type=int, metavar='N', help='minimum context, in tokens, of each scored token')
  parser.add_argument('--stride', type=int, metavar='N', help='tokens scored per window, by which windows advance')
  parser.add_argument('--max_tokens', type=int, metavar='N', help='score only the first N tokens')
  parser.add_argument('--batch_size', type=int, metavar='N', help="windows per batch; default: the run's")
  parser.add_argument('--check_causality', action='store_true', help='only check that no output depends on '
                      'later tokens')
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  command_line.add_gin_flags(parser)
  command_line.add_host_flags(parser)
  args = parser.parse_args(argv)
  with command_line.running(args):
    evaluate(args)


def evaluate(args):
  """Scores or checks the model that the parsed arguments name and prints the result."""
  model_flags.check(args)
  command_line.connect_hosts(args)
  from trax_hourglass import registry  # Registers with gin.  pylint: disable=g-import-not-at-top, unused-import
  from trax_hourglass.runtime import distributed  # pylint: disable=g-import-not-at-top
  from trax_hourglass.cli import evaluations  # pylint: disable=g-import-not-at-top
  distributed.end_by_sigterm()
  distributed.check_same('arguments', str([getattr(args, name) for name in (
      'checkpoint', 'pretrained', 'split', 'protocol', 'context', 'stride', 'max_tokens', 'batch_size')]))
  run = model_flags.open_run(args)
  (evaluations.check_causality if args.check_causality else evaluations.score)(run, args)


if __name__ == '__main__':
  main()
