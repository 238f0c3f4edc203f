"""Reads gin files, and what gin is configured for."""

import copy
import logging
import os
import pathlib
import re
import tokenize
from unittest import mock

import gin

from trax_hourglass.runtime import errors
from trax_hourglass.runtime import gin_mistakes
from trax_hourglass.runtime.errors import InputError

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
# Within the package where it was installed, beside it in a checkout.
GIN_FOLDER = next((folder for folder in (_PACKAGE / 'gin', _PACKAGE.parent / 'gin') if folder.is_dir()),
                  _PACKAGE / 'gin')


def parse_gin(files, bindings):
  """Reads gin files and bindings; paths may also be relative to this project's gin/ folder.

  Our models, layers and data have names in gin once `trax_hourglass.registry` is imported, which is left to the
  callers.

  Raises:
    InputError: a file is missing, or gin refuses a line.
  """
  gin.clear_config()
  gin.add_config_file_search_path(str(GIN_FOLDER))
  logging.disable(logging.ERROR)  # gin calls it an error when a file is not in the first of its folders.
  readers = [(_open, lambda path: os.path.isfile(os.path.expanduser(path)))]
  try:
    with mock.patch.object(gin.config, '_FILE_READERS', readers):
      gin.parse_config_files_and_bindings(files, bindings)
  except Exception as error:
    if errors.users_frames(error) or str(getattr(error, 'filename', '')).endswith('.py'):
      raise  # A module of the user's own that cannot be imported.
    raise InputError(_refused(error, files, bindings)) from error
  finally:
    logging.disable(logging.NOTSET)


def _open(path):
  """Opens a gin file, a byte order mark left out."""
  return open(os.path.expanduser(path), encoding='utf-8-sig')


def _refused(error, files, bindings):
  """Returns what gin refuses, where, and what it was probably meant to be."""
  if isinstance(error, tokenize.TokenError):  # Python 3.12 and later: of a text without an end, which is not named.
    line = next((binding for binding in bindings if gin_mistakes.quoted(binding)), None)
    where = f'--config {line!r}' if line else ' or '.join(files)
    return f'{where}: {error.args[0]}; the quotes do not match'
  if not isinstance(error, SyntaxError):
    message = errors.one_line(error)
    where = re.search(r'\n  In file "(.+)", line (\d+)\n', str(error))
    where = f'{where[1]}, line {where[2]}: ' if where else ''
    return f'{where}{message.rstrip(".")}{gin_mistakes.meant(message)}'
  where, line = f'{error.filename}, line {error.lineno}', error.text
  if not error.filename:  # gin reads all bindings as one text.
    line = bindings[min(error.lineno, len(bindings)) - 1]
    where = f'--config {line!r}'
  reason = ' '.join(str(error.msg).split()).rstrip('.')
  return f'{where}: {reason}{gin_mistakes.quoted(line)}'


def bound(parameter):
  """Returns what a gin parameter such as 'Hourglass.hierarchy' is bound to, macros and references resolved.

  Raises:
    ValueError: nothing is bound to it.
  """
  return copy.deepcopy(gin.query_parameter(parameter))  # gin makes a reference's object when it is copied.
