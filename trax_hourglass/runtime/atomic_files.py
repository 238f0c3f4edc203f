"""Writes files atomically: under another name first, renamed once complete."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def unfinished(path):
  """Yields a path to write to, which is renamed to `path` at the end of the block, or removed if the block fails.

  Missing folders are created.

  Args:
    path: final path of the file.
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
  """Writes a text atomically, as UTF-8."""
  with unfinished(path) as other:
    other.write_text(text, encoding='utf-8')
