"""Lists the files below a folder, following links."""

import collections
import os
import pathlib


def files_below(root, follow_folders=True):
  """Returns the files below a folder, and counts of what is left out.

  Links are followed. Left out are hidden files and folders, broken links, and links to a parent folder.

  Args:
    root: path of the folder.
    follow_folders: False leaves out linked folders without counting them.

  Returns:
    ([name relative to the folder, with slashes], sorted; Counter {kind of what was left out: number}).
  """
  found, left_out = [], collections.Counter()

  def look(folder, prefix, above):
    here = os.stat(folder)
    above = above | {(here.st_dev, here.st_ino)}
    for entry in os.scandir(folder):
      if entry.name.startswith('.'):
        left_out['hidden'] += 1
      elif entry.is_dir():
        there = os.stat(entry.path)
        if entry.is_symlink() and not follow_folders:
          continue
        if (there.st_dev, there.st_ino) in above:
          left_out['links to a parent folder'] += 1
        else:
          look(entry.path, f'{prefix}{entry.name}/', above)
      elif entry.is_file():
        found.append(prefix + entry.name)
      elif entry.is_symlink():
        left_out['broken links'] += 1

  look(pathlib.Path(root), '', frozenset())
  return sorted(found), left_out


def told(left_out):
  """Returns a Counter as text, such as '; left out: 1 broken link, 2 hidden', or '' for an empty one."""
  counts = ', '.join(f'{n:,} {what.replace("links", "link") if n == 1 else what}'
                     for what, n in sorted(left_out.items()) if n)
  return counts and f'; left out: {counts}'
