"""Determines how this process was started, which decides how much `import trax_hourglass` does; guards its streams."""

import contextlib
import os
import pathlib
import sys

SCRIPT = 'trax-hourglass'
_PACKAGE = pathlib.Path(__file__).resolve().parent.parent


def is_command():
  """Returns whether a command of this package is starting, so that --help and flag errors need not wait for Trax.

  Python imports the package before the module that `-m` names, with '-m' in place of the script. Python's original
  arguments then name the module, which may belong to another package that imports this one.
  """
  if sys.argv[:1] != ['-m']:
    return pathlib.PurePath(*sys.argv[:1]).stem == SCRIPT
  module = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)].removeprefix('-m')
  return module.partition('.')[0] == _PACKAGE.name


def open_standard_streams():
  """Opens stdin, stdout and stderr on the null device where the parent process has closed them.

  Otherwise, the next opened file would take their descriptors and receive the output meant for the terminal.
  """
  number = os.open(os.devnull, os.O_RDWR)
  while number <= 2:
    number = os.open(os.devnull, os.O_RDWR)
  os.close(number)
  for number, name in enumerate(('stdin', 'stdout', 'stderr')):
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, 'r' if number == 0 else 'w', encoding='utf-8', closefd=False))


@contextlib.contextmanager
def without_reader():
  """Lets work go on when nobody reads stderr any more: Ctrl-C also ends `tee` in `train 2>&1 | tee log`."""
  try:
    yield
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # What is buffered must not fail at exit.


def other_copies():
  """Returns the folders of other copies of this package, in the working directory or on Python's search path."""
  found = (pathlib.Path(folder or os.curdir) / _PACKAGE.name for folder in (os.curdir, *sys.path))
  copies = (copy.resolve() for copy in found if (copy / '__init__.py').is_file())
  return [copy for copy in dict.fromkeys(copies) if copy != _PACKAGE]


def copy_in_use():
  """Returns the folder of this package."""
  return _PACKAGE
