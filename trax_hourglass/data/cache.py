"""Caches files that are derived from other files or downloads, and writes them atomically.

A file is written under a name that ends in '.unfinished', and renamed once all of it is on disk.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib


from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import progress


def folder(cache_dir=None):
  """Returns the cache's folder: cache_dir, or trax_hourglass below XDG_CACHE_HOME or else ~/.cache."""
  caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(cache_dir or os.path.join(caches, 'trax_hourglass')).expanduser()


def fingerprint(files, *settings):
  """Returns 16 hexadecimal digits that change with a file (its path, size or time) or a setting."""
  digest = hashlib.sha256(repr(settings).encode())
  for file in files:
    status = os.stat(file)
    digest.update(repr((os.path.abspath(file), status.st_size, status.st_mtime_ns)).encode())
  return digest.hexdigest()[:16]


def build(path, chunks, what):
  """Writes a file unless it exists; of several processes, one writes and the others wait.

  Args:
    path: pathlib.Path in a folder that is created if missing.
    chunks: function of no argument that yields the content as bytes-like objects; if it raises, no file remains.
    what: what the file holds, for the progress bar or line.

  Returns:
    The path.

  Raises:
    InputError: the file cannot be written, such as when the disk is full.
  """
  if path.exists():
    return path
  with locked(path):
    if path.exists():
      return path
    unfinished = path.with_name(f'{path.name}.unfinished')
    with clear_write_errors(path):
      file = open(unfinished, 'wb')
    try:
      with progress.progress(f'{what}: writing {path}') as bar:
        for chunk in chunks():
          with clear_write_errors(path):
            file.write(chunk)
          bar.update(memoryview(chunk).nbytes)
      with clear_write_errors(path):
        finish(file, unfinished, path)
    except BaseException:
      with contextlib.suppress(OSError):
        file.close()
      unfinished.unlink(missing_ok=True)
      raise
  return path


def finish(file, unfinished, path):
  """Closes a written file and renames it, once its content is synced to disk."""
  file.flush()
  os.fsync(file.fileno())
  file.close()
  os.replace(unfinished, path)


@contextlib.contextmanager
def locked(path):
  """Creates a path's folder and holds a lock on the path; the system frees the lock if the process dies."""
  with clear_write_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = open(path.with_name(f'.{path.name}.lock'), 'ab')
    fcntl.flock(lock, fcntl.LOCK_EX)
  with lock:
    yield


@contextlib.contextmanager
def clear_write_errors(path):
  """Turns file-system errors into an InputError that names the file and the remedy."""
  try:
    yield
  except OSError as error:
    raise InputError(f'cannot write {path} ({error.strerror or error}): free or grant space there, or choose another '
                     'folder by the argument cache_dir or the variable XDG_CACHE_HOME') from error
