"""A process's hold on a folder, which the system ends with the process, however it ends."""

import fcntl
import os
import platform

from trax_hourglass.runtime.errors import InputError


class Held(InputError):
  """Another process has the folder."""


def take(folder, name, does):
  """Makes a folder and locks a file in it.

  Args:
    folder: pathlib.Path.
    name: of the file.
    does: what its holder does, for messages, such as 'trains'.

  Returns:
    A file descriptor, which holds the folder until it is closed.

  Raises:
    Held: another process holds it.
    OSError: the file system refuses.
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
