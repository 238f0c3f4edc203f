"""Resolves links inside an archive, never to a target outside of it."""

import posixpath

_MOST_STEPS = 40  # Links followed for one name, as in Linux.


def followed(files, links):
  """Returns the files of an archive, by their own names and by the links to them.

  Args:
    files: {name: any value}.
    links: {name: target, relative to the link's folder}.

  Returns:
    ({name: value in `files`}, number of broken links: to nothing in the archive, out of the archive, or to a folder
    around the link).
  """
  found, lost = dict(files), 0
  plain = {posixpath.normpath(name): value for name, value in files.items()}
  targets = {posixpath.normpath(name): target for name, target in links.items()}
  for name in links:
    goal = _goal(posixpath.normpath(name), targets)
    below = f'{goal}/'
    if goal is None or posixpath.normpath(name).startswith(below):
      lost += 1
    elif goal in plain:
      found[name] = plain[goal]
    else:
      reached = {name + other[len(goal):]: value for other, value in plain.items() if other.startswith(below)}
      lost += not reached
      found = {**reached, **found}
  return found, lost


def _goal(name, targets):
  """Returns a name with all links resolved, or None if the result is outside of the archive or cyclic."""
  for _ in range(_MOST_STEPS):
    parts = name.split('/')
    heads = ['/'.join(parts[:n]) for n in range(1, len(parts) + 1)]
    link = next((head for head in heads if head in targets), None)
    if link is None:
      return name
    rest = name[len(link) + 1:]
    name = posixpath.normpath(posixpath.join(posixpath.dirname(link), targets[link], rest))
    if name.startswith(('/', '../')) or name in ('.', '..'):
      return None
  return None
