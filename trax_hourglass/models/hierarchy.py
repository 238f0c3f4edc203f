"""Parses the paper's notation for a hierarchy, `2@1 8@3 2@1`, into a plan of levels; plain Python without JAX.

`N@f` is N layers on a sequence of one vector per f tokens (f is the *total* shorten factor). Factors rise from 1 to one
deepest level and fall back through the same values. The numbers of layers on the way down and up may differ. `8@1` is
the flat baseline. A factor may be a set to draw from in training, `2@1 8@2|3 2@1` (factor_dropout.py). A string with
sets stands for several hierarchies, its `alternatives`.
"""

import dataclasses
import itertools
import re

from trax_hourglass.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Level:
  """Holds one rate of the hierarchy.

  Attributes:
    total_factor: tokens per vector of this level.
    shorten_factor: vectors of the level above per vector of this level; 1 for the top level.
    n_before: layers before the next deeper level; for the deepest level, all of its layers.
    n_after: layers after the next deeper level; 0 for the deepest level.
  """
  total_factor: int
  shorten_factor: int
  n_before: int
  n_after: int


def alternatives(hierarchy):
  """Returns the hierarchies that a string with sets of factors stands for; without sets, the string itself.

  The first alternative takes the first factor of each set, the second one the second: '0@1 1@2|3 4@4|6 1@2|3 1@1' is
  '0@1 1@2 4@4 1@2 1@1' or '0@1 1@3 4@6 1@3 1@1'. A factor outside a set is part of all alternatives.

  Args:
    hierarchy: for example '2@1 8@2|3 2@1'.

  Raises:
    InputError: sets differ in size, an alternative occurs twice, or an alternative is invalid.
  """
  if not isinstance(hierarchy, str) or '|' not in hierarchy:
    parse(hierarchy)
    return (hierarchy,)
  sets = [(count, factors.split('|')) for count, _, factors in (part.partition('@') for part in hierarchy.split())]
  sizes = {len(factors) for _, factors in sets} - {1}
  if len(sizes) > 1:
    raise InputError(f'hierarchy {hierarchy!r} has sets of {" and ".join(map(str, sorted(sizes)))} factors: all sets '
                     'of a hierarchy have equally many, as in 1@2|3 4@4|6 1@2|3')
  size = max(sizes, default=1)
  chosen = [' '.join(f'{count}@{factors[i % len(factors)]}' for count, factors in sets) for i in range(size)]
  for one, other in itertools.combinations(chosen, 2):
    if one == other:
      raise InputError(f'hierarchy {hierarchy!r} names {one!r} twice: give each factor of a set once')
  for one in chosen:
    try:
      parse(one)
    except InputError as error:
      raise InputError(f'hierarchy {hierarchy!r}, of which one alternative is {one!r}: {error}') from None
  return tuple(chosen)


def parse(hierarchy):
  """Returns the levels of a hierarchy without sets of factors, top level (tokens) first.

  Args:
    hierarchy: for example '2@1 1@2 4@4 1@2 2@1'.

  Raises:
    InputError: the hierarchy is invalid; the message names the string, the wrong part and a valid form.
  """
  def error(part, why):
    return InputError(f'hierarchy {hierarchy!r}: {part}{why}')

  if not isinstance(hierarchy, str) or not hierarchy.split():
    raise error('', "give layers@factor parts, for example '2@1 8@3 2@1', or '8@1' for the flat baseline")
  parts = hierarchy.split()
  for part in parts:
    if not re.fullmatch(r'[0-9]{1,6}@[0-9]{1,6}', part):
      raise error(f'{part!r} ', 'is not layers@factor, two whole numbers such as 8@3')
  counts, factors = zip(*(map(int, part.split('@')) for part in parts))

  depth = len(parts) // 2
  for part, factor, mirrored in zip(parts, factors, factors[::-1]):
    if factor != mirrored:
      raise error(f'{part!r} ', f'has no counterpart: factors go up and come back by the same values, here {factors}')
  if len(parts) % 2 == 0:
    raise error(f'{parts[depth]!r} ', f'repeats factor {factors[depth]}: one deepest level, so an odd number of parts')
  if factors[0] != 1:
    raise error(f'{parts[0]!r} ', f"is not at token level: begin and end at factor 1, as in '0@1 {hierarchy} 0@1'")
  for part, outer, inner in zip(parts[1:], factors, factors[1:depth + 1]):
    if inner <= outer or inner % outer:
      raise error(f'{part!r} ', f'cannot follow factor {outer}: it must be a larger multiple of {outer}')
  if not any(counts):
    raise error('', 'has no layer at all')

  return tuple(
      Level(total_factor=factors[i],
            shorten_factor=factors[i] // factors[i - 1] if i else 1,
            n_before=counts[i],
            n_after=counts[-1 - i] if i < depth else 0)
      for i in range(depth + 1))


def padded_length(levels, length):
  """Returns the smallest number of tokens, at least `length`, that every total factor divides.

  Args:
    levels: levels as from `parse`.
    length: tokens of a sequence.
  """
  factor = levels[-1].total_factor
  return -(-length // factor) * factor
