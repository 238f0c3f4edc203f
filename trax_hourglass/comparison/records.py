"""Reads and writes the files of a row's plan and results.

    ROW/row.json                the row's settings, and the measurement of its step
    ROW/seed_N/result.json      a run's bits and learning curve, or its error
"""

import contextlib
import gc
import json
import traceback

from trax_hourglass.runtime import atomic_files
from trax_hourglass.runtime import errors
from trax_hourglass.runtime.progress import say

PLAN, RESULT = 'row.json', 'result.json'
_UNFINISHED = 'the process ended while this was tried'
_LONGEST = 400  # Maximum characters of an error.


def read(path):
  """Returns the contents of a JSON file, or {} if missing."""
  return json.loads(path.read_text()) if path.exists() else {}


@contextlib.contextmanager
def kept(row, path, scored):
  """Catches errors of work on a row: the file then holds the error, otherwise the values given to the yielded function.

  Args:
    row: the Row.
    path: path of the file.
    scored: {name: value} of the settings of the final evaluation, which the file keeps with the row's settings.
  """
  fields = {'name': row.name, 'settings': row.settings, 'weights_of': row.weights_of, 'scored': scored}
  write = lambda result: atomic_files.write(path, json.dumps({**fields, **result}, indent=1))
  result = {}
  write({'error': _UNFINISHED})
  try:
    yield result.update
  except Exception as error:  # The other rows continue.  pylint: disable=broad-except
    began = errors.cause(error)
    is_mistake = isinstance(began, errors.InputError)
    result = {'error': short(began) if is_mistake else f'{type(began).__name__}: {short(began)}'}
    if not is_mistake:
      say(''.join(traceback.format_exception(began)))
    say(f'{row.name} failed: {result["error"]}')
  finally:
    write(result) if result else path.unlink()
    gc.collect()  # Trainer and compiled step reference each other, and keep weights alive.


def short(error):
  """Returns an exception's message as one line of a few hundred characters."""
  text = errors.one_line(error).split(' -------------------- For simplicity, JAX')[0]  # JAX's remark on tracebacks.
  return text if len(text) < _LONGEST else f'{text[:200]} ... {text[-190:]}'
