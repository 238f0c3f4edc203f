"""The files below a folder, links followed."""

import os
import pathlib


def files_below(root):
  """Returns the files below a folder, sorted by name; hidden ones, and those in hidden folders, are left out.

  Links are followed; one that leads back to a folder it lies in, or to nothing, is left out.

  Args:
    root: path of the folder.

  Returns:
    [name relative to the folder, with slashes].
  """
  found = []

  def look(folder, prefix, above):
    here = os.stat(folder)
    above = above | {(here.st_dev, here.st_ino)}
    for entry in os.scandir(folder):
      if entry.name.startswith('.'):
        continue
      if entry.is_dir():
        there = os.stat(entry.path)
        if (there.st_dev, there.st_ino) not in above:
          look(entry.path, f'{prefix}{entry.name}/', above)
      elif entry.is_file():
        found.append(prefix + entry.name)

  look(pathlib.Path(root), '', frozenset())
  return sorted(found)
