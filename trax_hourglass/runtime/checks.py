"""Checks of arguments that several packages make."""

from trax_hourglass.runtime.errors import InputError


def check_vocabulary(tokens, vocab_size):
  """Raises InputError if a token is outside 0 .. vocab_size - 1; `Embedding` would silently take the nearest."""
  low, high = int(tokens.min()), int(tokens.max())
  if low < 0 or high >= vocab_size:
    raise InputError(f'token {low if low < 0 else high} is outside the vocabulary 0 .. {vocab_size - 1}: '
                     'raise vocab_size or check the data')


def check_sizes(**sizes):
  """Raises InputError for a size, by its argument's name, that is no whole number above 0."""
  for name, size in sizes.items():
    if not isinstance(size, int) or size < 1:
      raise InputError(f'{name} is {size!r}: give a whole number above 0')
