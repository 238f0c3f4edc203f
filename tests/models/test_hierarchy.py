"""Tests the notation of hierarchies: its meaning and its errors."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from trax_hourglass.models import hierarchy


def test_a_single_level_parses():
  assert hierarchy.parse('2@1 8@3 1@1') == (
      hierarchy.Level(total_factor=1, shorten_factor=1, n_before=2, n_after=1),
      hierarchy.Level(total_factor=3, shorten_factor=3, n_before=8, n_after=0))


def test_nested_levels_with_unequal_sides():
  assert hierarchy.parse('2@1 1@2 4@6 5@2 0@1') == (
      hierarchy.Level(1, 1, 2, 0), hierarchy.Level(2, 2, 1, 5), hierarchy.Level(6, 3, 4, 0))


def test_a_flat_hierarchy_parses():
  assert hierarchy.parse(' 8@1 ') == (hierarchy.Level(1, 1, 8, 0),)


@pytest.mark.parametrize('string, offending', [
    ('', 'layers@factor'), ('  ', 'layers@factor'), ('8', "'8'"), ('8@', "'8@'"), ('a@3', "'a@3'"), ('-1@1', "'-1@1'"),
    ('2@1,8@3,2@1', "'2@1,8@3,2@1'"), ('2@1 8@3', "'2@1'"), ('2@1 8@3 2@1 2@1', "'8@3'"), ('8@3', "'8@3'"),
    ('2@1 2@1', "'2@1'"), ('2@1 3@1 2@1', "'3@1'"), ('1@1 2@4 3@6 2@4 1@1', "'3@6'"), ('1@1 2@4 3@2 2@4 1@1', "'3@2'"),
    ('1@1 2@0 1@1', "'2@0'"), ('0@1', 'no layer'), ('0@1 0@3 0@1', 'no layer'), ('1.5@1', "'1.5@1'"), (None, 'None'),
])
def test_invalid_hierarchies_are_refused(string, offending):
  with pytest.raises(ValueError) as raised:
    hierarchy.parse(string)
  assert offending in str(raised.value) and repr(string) in str(raised.value) and '\n' not in str(raised.value)


@given(st.text(alphabet='0123456789@ -x', max_size=20))
def test_any_string_parses_or_is_a_value_error(string):
  try:
    levels = hierarchy.parse(string)
  except ValueError as error:
    assert repr(string) in str(error)
    return
  down = [f'{level.n_before}@{level.total_factor}' for level in levels]
  up = [f'{level.n_after}@{level.total_factor}' for level in levels[-2::-1]]
  normal = [f'{int(n)}@{int(f)}' for n, f in (part.split('@') for part in string.split())]
  assert down + up == normal


@given(st.integers(1, 500))
def test_padded_length_is_the_next_multiple(length):
  padded = hierarchy.padded_length(hierarchy.parse('1@1 1@2 1@6 1@2 1@1'), length)
  assert padded % 6 == 0 and length <= padded < length + 6
