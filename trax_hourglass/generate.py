"""Generates text or images with a trained model.

    python -m trax_hourglass.generate --output_dir DIR --prompt 'def main():' --length 500 --temperature 0.8
    python -m trax_hourglass.generate --output_dir DIR --prompt_file start.txt --top_p 0.95 --count 3 --json
    python -m trax_hourglass.generate --pretrained enwik8-small --prompt 'The '                 comes with the package
    python -m trax_hourglass.generate --output_dir DIR --image grid.png --count 16              a model of images
    python -m trax_hourglass.generate --output_dir DIR --image out.png --complete half.png      fills in the lower half
    python -m trax_hourglass.generate --checkpoint model.pkl.gz --config_file gin/paper/trax_enwik8.gin
                                                                   a checkpoint of trax.models.HourglassLM
"""

from trax_hourglass.cli import command_line
from trax_hourglass.cli import model_flags
from trax_hourglass.cli import sampling_flags


def main(argv=None):
  """Parses the command line, generates, and prints throughput and bits to stderr."""
  parser = command_line.parser('generate', __doc__)
  model_flags.add(parser)
  prompt = parser.add_mutually_exclusive_group()
  prompt.add_argument('--prompt', metavar='TEXT', help='what the text begins with; default: nothing')
  prompt.add_argument('--prompt_file', metavar='F', help='file with what the text begins with')
  parser.add_argument('--length', type=int, metavar='N', help='bytes to write; default: 500')
  parser.add_argument('--temperature', type=float, default=1.0, metavar='T', help='0 takes the most probable token')
  parser.add_argument('--top_k', type=int, metavar='K', help='sample from the K most probable tokens')
  parser.add_argument('--top_p', type=float, default=1.0, metavar='P', help='sample from the most probable tokens '
                      'whose probabilities sum to P')
  parser.add_argument('--seed', type=int, default=0, metavar='S', help='random seed of the sampling; default: 0')
  parser.add_argument('--count', type=int, default=1, metavar='N', help='texts or images to write; default: 1')
  parser.add_argument('--stop', metavar='C', help=r"what ends a text: a character, an escape such as '\n', or a byte's "
                      'number')
  parser.add_argument('--window', type=int, metavar='N', help='at max_length, continue with the last N bytes')
  parser.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16'),
                      help='dtype of the weights and KV caches')
  parser.add_argument('--image', metavar='OUT.png', help='write images, as a grid in this file')
  parser.add_argument('--complete', metavar='IN.png', help='keep the upper half of this image and fill in the rest')
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  command_line.add_gin_flags(parser)
  args = parser.parse_args(argv)
  with command_line.running(args):
    generate(args)


def generate(args):
  """Generates the text or images that the parsed arguments ask for."""
  model_flags.check(args)
  sampling_flags.check(args)
  from trax_hourglass import registry  # Registers with gin.  pylint: disable=g-import-not-at-top, unused-import
  if args.image is not None:
    from trax_hourglass.cli import write_images  # pylint: disable=g-import-not-at-top
    write_images.write_images(args)
  else:
    from trax_hourglass.cli import write_text  # pylint: disable=g-import-not-at-top
    write_text.write_texts(args)


if __name__ == '__main__':
  main()
