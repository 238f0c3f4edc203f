"""Locks a folder for one process; the system releases the lock when the process ends, however it ends."""

import fcntl
import os
import platform

from trax_hourglass.runtime.errors import InputError


class Held(InputError):
  """Signals that another process holds the lock of a folder."""


def take(folder, name, does):
  """Creates a folder and locks a file in it.

  Args:
    folder: pathlib.Path.
    name: name of the file.
    does: activity of the lock's holder, for messages, such as 'trains'.

  Returns:
    A file descriptor, which holds the lock until it is closed.

  Raises:
    Held: another process holds the lock.
    OSError: the folder or the file cannot be created.
  """
  folder.mkdir(parents=True, exist_ok=True)
  lock = os.open(folder / name, os.O_RDWR | os.O_CREAT)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    who = os.read(lock, 1000).decode(errors='replace').strip()
    os.close(lock)
    raise Held(f'{who or "another process"} {does} in {str(folder)!r}: wait for it or give another '
               'output_dir') from None
  os.ftruncate(lock, 0)
  os.write(lock, f'process {os.getpid()} of {platform.node()}'.encode())
  return lock
