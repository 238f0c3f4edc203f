"""Checks of arguments that several packages make."""


def check_vocabulary(tokens, vocab_size):
  """Raises ValueError if a token is outside 0 .. vocab_size - 1; `Embedding` would silently take the nearest."""
  low, high = int(tokens.min()), int(tokens.max())
  if low < 0 or high >= vocab_size:
    raise ValueError(f'token {low if low < 0 else high} is outside the vocabulary 0 .. {vocab_size - 1}: '
                     'raise vocab_size or check the data')


def check_sizes(**sizes):
  """Raises ValueError for a size, by its argument's name, that is no whole number above 0."""
  for name, size in sizes.items():
    if not isinstance(size, int) or size < 1:
      raise ValueError(f'{name} is {size!r}: give a whole number above 0')
