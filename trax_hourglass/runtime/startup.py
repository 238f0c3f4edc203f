"""Finds out how this process was started, which decides how much `import trax_hourglass` does."""

import os
import pathlib
import sys

SCRIPT = 'trax-hourglass'
_PACKAGE = pathlib.Path(__file__).resolve().parent.parent


def is_command():
  """Returns whether one of our commands is starting, so that --help and errors in flags need not wait for Trax.

  Python imports the package before the module that `-m` names, with '-m' in the place of the script; then the arguments
  that Python was started with say which module that is. It may be a module of another package that imports this one.
  """
  if sys.argv[:1] != ['-m']:
    return pathlib.PurePath(*sys.argv[:1]).stem == SCRIPT
  module = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)].removeprefix('-m')
  return module.partition('.')[0] == _PACKAGE.name


def open_standard_streams():
  """Opens stdin, stdout and stderr that whoever started this process has closed, as nothing.

  Else the next file that is opened takes their numbers, and what is meant for the terminal is written into it.
  """
  number = os.open(os.devnull, os.O_RDWR)
  while number <= 2:
    number = os.open(os.devnull, os.O_RDWR)
  os.close(number)
  for number, name in enumerate(('stdin', 'stdout', 'stderr')):
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, 'r' if number == 0 else 'w', encoding='utf-8', closefd=False))


def other_copies():
  """Returns folders of this package, but the one in use, that are in the working directory or where Python looks for
  modules.
  """
  found = (pathlib.Path(folder or os.curdir) / _PACKAGE.name for folder in (os.curdir, *sys.path))
  copies = (copy.resolve() for copy in found if (copy / '__init__.py').is_file())
  return [copy for copy in dict.fromkeys(copies) if copy != _PACKAGE]


def copy_in_use():
  """Returns the folder of this package."""
  return _PACKAGE
