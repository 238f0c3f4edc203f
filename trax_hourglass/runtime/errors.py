"""Errors that a user can cause."""


class UsageError(Exception):
  """What the user asked for cannot be done; the message says why and what to do, in one line."""


def one_line(error):
  """Returns an exception's message without line breaks and gin's remarks about its own call stack."""
  text = str(error).split('\n  In call to')[0].split('\n  In file')[0] or type(error).__name__
  return ' '.join(text.split())
