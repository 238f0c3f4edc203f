"""The files in which a row keeps what was planned for it and what came of it.

    ROW/row.json                the row's settings, and what was measured of a step
    ROW/seed_N/result.json      a run's bits and learning curve, or why it failed
"""

import contextlib
import gc
import json

from trax_hourglass.runtime import atomic_files
from trax_hourglass.runtime import errors
from trax_hourglass.runtime.progress import say

PLAN, RESULT = 'row.json', 'result.json'
_UNFINISHED = 'the process ended while this was tried'
_LONGEST = 400  # Characters of an error.


def read(path):
  """Returns what a file of JSON holds; without one, nothing, {}."""
  return json.loads(path.read_text()) if path.exists() else {}


@contextlib.contextmanager
def kept(row, path, scored):
  """Within it, work on a row may fail: a file then holds the error, and otherwise what was handed to the function it
  gives.

  Args:
    row: the Row.
    path: of the file.
    scored: {name: value} of what is scored at the end, which the file keeps beside the row's settings.
  """
  fields = {'name': row.name, 'settings': row.settings, 'weights_of': row.weights_of, 'scored': scored}
  write = lambda result: atomic_files.write(path, json.dumps({**fields, **result}, indent=1))
  result = {}
  write({'error': _UNFINISHED})
  try:
    yield result.update
  except Exception as error:  # The other rows go on.  pylint: disable=broad-except
    result = {'error': short(error)}
    say(f'{row.name} failed: {result["error"]}')
  finally:
    write(result) if result else path.unlink()
    gc.collect()  # Trainer and compiled step hold on to each other, and to weights.


def short(error):
  """Returns an exception's message in one line of a few hundred characters."""
  text = errors.one_line(error).split(' -------------------- For simplicity, JAX')[0]  # Its remark on tracebacks.
  return text if len(text) < _LONGEST else f'{text[:200]} ... {text[-190:]}'
