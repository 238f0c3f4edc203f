"""Checks arguments for several packages."""

import numbers

from trax_hourglass.runtime.errors import InputError


def check_vocabulary(tokens, vocab_size):
  """Raises InputError if a token is outside 0 .. vocab_size - 1; `Embedding` would silently take the nearest."""
  low, high = int(tokens.min()), int(tokens.max())
  if low < 0 or high >= vocab_size:
    raise InputError(f'token {low if low < 0 else high} is outside the vocabulary 0 .. {vocab_size - 1}: '
                     'raise vocab_size or check the data')


def is_whole(value):
  """Returns whether a value is an integer of Python; True and False are not."""
  return isinstance(value, int) and not isinstance(value, bool)


def check_seed(seed):
  """Raises InputError unless a seed is a whole number from 0 up to 2^63 - 1."""
  if not is_whole(seed) or not 0 <= seed < 1 << 63:
    raise InputError(f'seed is {seed!r}: give a whole number, not below 0 and below 2^63')


def check_choice(temperature, top_k, top_p):
  """Raises InputError for a temperature below 0, top_k below 1, or top_p outside of (0, 1]."""
  if not 0.0 <= temperature < float('inf'):
    raise InputError(f'temperature is {temperature}: give 0 for the most probable token, 1 for the model as it is, or '
                     'another number by which logits are divided')
  if top_k is not None and (not isinstance(top_k, numbers.Integral) or top_k < 1):
    raise InputError(f'top_k is {top_k}: give the number of most probable tokens to choose from, at least 1')
  if not 0.0 < top_p <= 1.0:
    raise InputError(f'top_p is {top_p}: give a probability above 0 and at most 1')


def check_sizes(**sizes):
  """Raises InputError unless each size, by its argument's name, is a whole number above 0 and below 2^40.

  For sizes beyond 63 bits, errors of NumPy and XLA would not name the argument.
  """
  for name, size in sizes.items():
    if not is_whole(size) or size < 1:
      raise InputError(f'{name} is {size!r}: give a whole number above 0')
    if size >= 1 << 40:
      raise InputError(f'{name} is {size}: give a whole number below 2^40')
