"""Files that are whole or not there: written under another name, and renamed when all is written."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def unfinished(path):
  """Gives the path to write to, which becomes `path` at the end of the block, or goes if that fails; folders are made.

  Args:
    path: of the file.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  other = path.with_name(f'{path.name}.unfinished')
  try:
    yield other
    os.replace(other, path)
  except BaseException:
    other.unlink(missing_ok=True)
    raise


def write(path, text):
  """Writes a text, as UTF-8."""
  with unfinished(path) as other:
    other.write_text(text, encoding='utf-8')
