"""Sets the number of examples that tests try: a sample by default, all of them with `pytest --thorough`."""

_thorough = [False]


def set_thorough(is_thorough):
  """Sets the mode, before any test module is imported."""
  _thorough[0] = is_thorough


def examples(few, many):
  """Returns a number of examples: `few`, or `many` with --thorough."""
  return many if _thorough[0] else few


def some(few, many):
  """Returns a list of values: `few`, or `many` with --thorough."""
  return list(many if _thorough[0] else few)
