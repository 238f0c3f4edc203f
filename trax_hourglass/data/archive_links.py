"""Links inside archives, followed to what the same archive holds and never out of it."""

import posixpath

_MOST_STEPS = 40  # Links on the way of one name, as in Linux.


def followed(files, links):
  """Returns the files that can be reached, by their own names and by links.

  Args:
    files: {name: anything}.
    links: {name: target, relative to the link's folder}.

  Returns:
    ({name: as in `files`}, how many links lead to nothing in the archive, out of it, or back to a folder around them).
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
  """Returns where a name leads, None for out of the archive or in a circle."""
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
