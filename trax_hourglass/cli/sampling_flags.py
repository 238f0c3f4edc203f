"""Checks the sampling flags before anything is loaded. Imports nothing heavy."""

import ast

from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError


def stop_byte(text):
  """Returns the byte that --stop gives as a number, one character of one byte, or an escape such as '\\n'.

  Digits are a byte's number: 57 stands for '9'.

  Raises:
    InputError: the text is none of these.
  """
  if text.isdecimal() and int(text) < 256:
    return int(text)
  if text.startswith('\\') and len(text) > 1:
    try:
      text = ast.literal_eval(f"'{text}'")
    except (SyntaxError, ValueError):
      pass
  code = text.encode('utf-8', 'surrogateescape')
  if len(code) != 1:
    raise InputError(f"stop is {text!r}: give one character of one byte such as '.', an escape such as "
                     r"'\n', or a number from 0 to 255")
  return code[0]


def check(args):
  """Checks the sampling flags of `generate`.

  Raises:
    InputError: a flag is out of range, or two flags exclude each other.
  """
  if args.image is None and args.complete is not None:
    raise InputError('--complete makes an image: say where it goes by --image OUT.png')
  checks.check_choice(args.temperature, args.top_k, args.top_p)
  checks.check_seed(args.seed)
  checks.check_sizes(count=args.count, length=1 if args.length is None else args.length)
  if args.window is not None:
    checks.check_sizes(window=args.window)
    if args.image is not None:
      raise InputError('--window is of texts, and --image asks for images: leave one of them out')
  if args.stop is not None:
    stop_byte(args.stop)
