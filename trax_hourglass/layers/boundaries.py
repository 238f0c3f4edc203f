"""Finds where groups of tokens end, by plug-in rules, and derives the group of every token.

A rule is a function, `rule(tokens)` or `rule(tokens, shorten_factor)`. The rule maps tokens (B, L), int32, to whether a
group ends with each token, bool (B, L). The first token is the start token 0. The result for a token may depend on that
token and earlier ones only; `evaluate --check_causality` finds rules that look ahead.

Letters: B batch, L tokens, K shorten factor, S slots for groups, L / K of them.
"""

import inspect
import typing

import jax
import jax.numpy as jnp

from trax_hourglass.runtime.errors import InputError


def EveryKth(tokens, shorten_factor):
  """Ends groups like groups of a fixed size: with the first token and every K-th token after it."""
  return jnp.broadcast_to(jnp.arange(tokens.shape[1]) % shorten_factor == 0, tokens.shape)


def EndOfWord(tokens):
  """Ends groups after words of bytes, by the rule of SpaceByte (arXiv 2404.14408, section 3).

  A group ends with a byte that follows a letter, digit or UTF-8 continuation byte and is itself none of these.
  """
  letters = ((tokens >= ord('0')) & (tokens <= ord('9'))) | ((tokens | 32) >= ord('a')) & ((tokens | 32) <= ord('z'))
  inside = letters & (tokens < 128) | (tokens >= 0x80) & (tokens < 0xC0)
  return ~inside & jnp.pad(inside, ((0, 0), (1, 0)))[:, :-1]


def AtBytes(tokens, which=(10,)):
  """Ends a group with each of the given bytes.

  Args:
    tokens: (B, L).
    which: the bytes, as numbers or a bytes object; b'\\n' ends a group with each line.
  """
  return jnp.isin(tokens, jnp.asarray(list(which), jnp.int32))


class Groups(typing.NamedTuple):
  """Holds the groups of sequences, token by token, (B, L) each.

  Groups beyond the S slots do not count: the last slot serves their tokens.

  Attributes:
    ends: whether a group that has a slot ends with the token, bool.
    slot: slot of the token's group; for a group without an end, the number of groups that ended.
    last: slot of the last group that has ended by the token, -1 before any.
    place: tokens since that end.
  """
  ends: jax.Array
  slot: jax.Array
  last: jax.Array
  place: jax.Array


def ends(rule, tokens, shorten_factor):
  """Returns the result of a rule, bool (B, L).

  Args:
    rule: see above.
    tokens: (B, L).
    shorten_factor: K.

  Raises:
    InputError: the result has another shape or type.
  """
  wants_factor = 'shorten_factor' in inspect.signature(rule).parameters
  found = rule(tokens, shorten_factor=shorten_factor) if wants_factor else rule(tokens)
  shape, dtype = getattr(found, 'shape', None), getattr(found, 'dtype', type(found).__name__)
  if shape != tokens.shape or dtype != bool:
    raise InputError(f'Hourglass.boundaries = @{getattr(rule, "__name__", rule)} returned {dtype} {shape}, expected '
                     f'bool {tokens.shape}')
  return jnp.asarray(found)


def groups(found, n_slots):
  """Returns the Groups of a rule's result, bool (B, L), with S slots."""
  found = found & (jnp.cumsum(found, axis=1) <= n_slots)
  n_ended = jnp.cumsum(found, axis=1)
  position = jnp.arange(found.shape[1])
  last_end = jax.lax.cummax(jnp.where(found, position, 0), axis=1)
  return Groups(found, n_ended - found, n_ended - 1, position - last_end)


def count(rule, shorten_factor, tokens):
  """Returns (number of groups that end in each sequence, int (B,); number of slots, L / K rounded up).

  Groups beyond the slots are counted, although the last slot serves their tokens.

  Args:
    rule: see above.
    shorten_factor: K.
    tokens: (B, L), as in a corpus; the start token is prepended.
  """
  tokens = jnp.pad(jnp.asarray(tokens, jnp.int32), ((0, 0), (1, 0)))[:, :-1]
  return ends(rule, tokens, shorten_factor).sum(axis=1), -(-tokens.shape[1] // shorten_factor)


def told(counts):
  """Returns a line that reports the result of `count`."""
  n_groups, n_slots = counts
  over = jnp.maximum(0, n_groups - n_slots)
  return (f'groups at boundaries: {n_groups.mean():.1f} a window, which has {n_slots} slots; '
          f'{(over > 0).mean():.1%} of {len(over)} windows have more, and {over.sum() / max(1, n_groups.sum()):.2%} of '
          'all groups find no slot')
