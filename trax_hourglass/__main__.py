"""Lists the commands or runs one.

Called as `python -m trax_hourglass COMMAND ...`, or as `trax-hourglass COMMAND ...` once installed.
"""

import os
import sys

from trax_hourglass import compare
from trax_hourglass import evaluate
from trax_hourglass import export
from trax_hourglass import generate
from trax_hourglass import plan
from trax_hourglass import train

_COMMANDS = {command.__name__.rpartition('.')[2]: command
             for command in (train, evaluate, generate, compare, export, plan)}


def main(argv=None):
  """Runs the command that the first argument names on the remaining arguments, or lists the commands."""
  name, *arguments = (sys.argv[1:] if argv is None else argv) or ['--help']
  if name in _COMMANDS:
    if os.getcwd() not in sys.path:  # As `python -m` has it, so that gin files can import a user's modules.
      sys.path.insert(0, os.getcwd())
    return _COMMANDS[name].main(arguments)
  listing = '\n'.join(f'  {command:10}{module.__doc__.splitlines()[0]}' for command, module in _COMMANDS.items())
  if name in ('-h', '--help'):
    print(f'usage: trax-hourglass COMMAND ...\n\n{listing}\n\n`trax-hourglass COMMAND --help` says more, and '
          '`python -m trax_hourglass.COMMAND ...` does the same.')
    return None
  print(f'trax-hourglass: {name!r} is not a command; choose one of {", ".join(_COMMANDS)}', file=sys.stderr)
  raise SystemExit(2)


if __name__ == '__main__':
  main()
