"""Reads gin files and bindings, and the values that gin is configured with."""

import contextlib
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
# Inside the package if installed, beside the package in a checkout.
GIN_FOLDER = next((folder for folder in (_PACKAGE / 'gin', _PACKAGE.parent / 'gin') if folder.is_dir()),
                  _PACKAGE / 'gin')


# Parameters, by the last part of their gin names, that hold paths of data.
PLACES = frozenset(('path', 'cache_dir', 'data_dir', 'sentencepiece'))


def parse_gin(files, bindings, own=()):
  """Reads gin files and bindings; paths may also be relative to this project's gin/ folder.

  An included file is looked for beside the including file, then as gin looks for files, then in gin/. This project's
  own files include others of gin/ only. Relative paths of data, see `PLACES`, are made absolute, so that a run can be
  opened from any folder.

  Callers must import `trax_hourglass.registry` first, which registers models, layers and data with gin.

  Args:
    files: paths of gin files.
    bindings: the user's lines of gin, which override the files'; a macro in them must be read by something.
    own: lines of the program itself, read between files and bindings.

  Raises:
    InputError: a file is missing, gin refuses a line, a binding refers to itself, or nothing reads a binding's macro.
  """
  gin.clear_config()
  logging.disable(logging.ERROR)  # gin logs an error when a file is not in the first of its folders.
  places = [*gin.config._LOCATION_PREFIXES, str(GIN_FOLDER)]
  being_read, all_places = [], places[:]
  reader = ((lambda path: _opened(path, places, all_places, being_read)),
            lambda path: os.path.isfile(path := os.path.expanduser(path)) and os.path.realpath(path) not in being_read)
  try:
    with mock.patch.multiple(gin.config, _FILE_READERS=[reader], _LOCATION_PREFIXES=places):
      gin.parse_config_files_and_bindings(files, [*own, *bindings])
  except Exception as error:
    if errors.users_frames(error) or str(getattr(error, 'filename', '')).endswith('.py'):
      raise  # A user's own module cannot be imported.
    raise InputError(_refused(error, files, [*own, *bindings])) from error
  finally:
    logging.disable(logging.NOTSET)
  if (binding := gin_mistakes.circle()) is not None:
    raise InputError(f'{binding} refers to itself: bind something else to it')
  if (unread := gin_mistakes.unread(bindings)) is not None:
    raise InputError(unread)
  _make_places_absolute()


@contextlib.contextmanager
def _opened(path, places, all_places, being_read):
  """Opens a gin file without its byte order mark; meanwhile, `places` are where its includes are looked for."""
  path = os.path.expanduser(path)
  before = places[:]
  is_ours = GIN_FOLDER in pathlib.Path(path).resolve().parents
  places[:] = [str(GIN_FOLDER)] if is_ours else [os.path.dirname(path), *all_places]
  being_read.append(os.path.realpath(path))
  try:
    with open(path, encoding='utf-8-sig') as f:
      yield f
  finally:
    being_read.pop()
    places[:] = before


def _make_places_absolute():
  for (scope, selector), parameters in gin.config._CONFIG.items():
    for name in PLACES & parameters.keys():
      # gin resolves a macro when it is copied; other references are not resolved.
      value = parameters[name]
      if isinstance(value, gin.config.ConfigurableReference) and value.config_key[1] == 'gin.macro':
        with contextlib.suppress(ValueError):  # An unbound macro is reported where it is used.
          value = gin.query_parameter(f'{value.config_key[0]}/gin.macro.value')
      if isinstance(value, str) and not os.path.isabs(value) and os.path.exists(value):
        with gin.unlock_config():
          gin.bind_parameter((scope, selector, name), os.path.abspath(value))


def _refused(error, files, bindings):
  """Returns a message with gin's error, its location, and the likely correction."""
  open_ended = next((binding for binding in bindings if gin_mistakes.has_no_end(binding)), None)
  if isinstance(error, tokenize.TokenError):  # Python 3.12 and later: unterminated text, which is not named.
    line = open_ended
    where = f'--config {line!r}' if line else ' or '.join(files)
    return f'{where}: {error.args[0]}; the quotes do not match'
  if not isinstance(error, SyntaxError):
    message = errors.one_line(error)
    where = re.search(r'\n  In file "(.+)", line (\d+)\n', str(error))
    where = f'{where[1]}, line {where[2]}: ' if where else ''
    return f'{where}{message.rstrip(".")}{gin_mistakes.meant(message)}'
  where, line = f'{error.filename}, line {error.lineno}', error.text
  if not error.filename:  # gin reads all bindings as one text.
    line = open_ended or bindings[min(error.lineno, len(bindings)) - 1]
    where = f'--config {line!r}'
  reason = ' '.join(str(error.msg).split()).rstrip('.')
  return f'{where}: {reason}{gin_mistakes.quoted(line)}'


def bound(parameter):
  """Returns the value of a gin parameter such as 'Hourglass.hierarchy', with macros and references resolved.

  Raises:
    ValueError: the parameter is unbound.
  """
  return copy.deepcopy(gin.query_parameter(parameter))  # gin creates a reference's object when it is copied.
