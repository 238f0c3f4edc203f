"""Finds where groups of tokens end: rules that are plug-ins, and what follows from them for every token.

A rule is one function, `rule(tokens)` or `rule(tokens, shorten_factor)`: tokens (B, L), int32, the first of which is
the start token 0, to whether a group ends with each of them, bool (B, L). What it says of a token may depend on that
token and earlier ones only; `evaluate --check_causality` finds one that looks ahead.

Letters: B batch, L tokens, K shorten factor, S slots for groups, L / K of them.
"""

import inspect
import typing

import jax
import jax.numpy as jnp

from trax_hourglass.runtime.errors import InputError


def EveryKth(tokens, shorten_factor):
  """Ends groups as fixed ones do: with the first token, and every K-th after it."""
  return jnp.broadcast_to(jnp.arange(tokens.shape[1]) % shorten_factor == 0, tokens.shape)


def EndOfWord(tokens):
  """Ends groups behind words of bytes, by the rule of SpaceByte (arXiv 2404.14408, section 3).

  A group ends with a byte that is no letter, digit or continuation of a UTF-8 character, and comes behind one that is.
  """
  letters = ((tokens >= ord('0')) & (tokens <= ord('9'))) | ((tokens | 32) >= ord('a')) & ((tokens | 32) <= ord('z'))
  inside = letters & (tokens < 128) | (tokens >= 0x80) & (tokens < 0xC0)
  return ~inside & jnp.pad(inside, ((0, 0), (1, 0)))[:, :-1]


def AtBytes(tokens, which=(10,)):
  """Ends groups with certain bytes.

  Args:
    tokens: (B, L).
    which: the bytes, numbers or a bytes object; b'\\n' ends groups with lines.
  """
  return jnp.isin(tokens, jnp.asarray(list(which), jnp.int32))


class Groups(typing.NamedTuple):
  """The groups of sequences, token by token, (B, L) each.

  Groups beyond the S slots are none: their tokens go on with the last slot.

  Attributes:
    ends: whether a group that has a slot ends with the token, bool.
    slot: of the token's group; that of a group without end is the number of those that ended.
    last: slot of the last group that has ended by the token, -1 before any.
    place: tokens since that end.
  """
  ends: jax.Array
  slot: jax.Array
  last: jax.Array
  place: jax.Array


def ends(rule, tokens, shorten_factor):
  """Returns what a rule says, bool (B, L).

  Args:
    rule: see above.
    tokens: (B, L).
    shorten_factor: K.

  Raises:
    InputError: it returns another shape or type.
  """
  wants_factor = 'shorten_factor' in inspect.signature(rule).parameters
  found = rule(tokens, shorten_factor=shorten_factor) if wants_factor else rule(tokens)
  shape, dtype = getattr(found, 'shape', None), getattr(found, 'dtype', type(found).__name__)
  if shape != tokens.shape or dtype != bool:
    raise InputError(f'Hourglass.boundaries = @{getattr(rule, "__name__", rule)} returned {dtype} {shape}, expected '
                     f'bool {tokens.shape}')
  return jnp.asarray(found)


def groups(found, n_slots):
  """Returns the Groups of a rule's answer, bool (B, L), with S slots."""
  found = found & (jnp.cumsum(found, axis=1) <= n_slots)
  n_ended = jnp.cumsum(found, axis=1)
  position = jnp.arange(found.shape[1])
  last_end = jax.lax.cummax(jnp.where(found, position, 0), axis=1)
  return Groups(found, n_ended - found, n_ended - 1, position - last_end)


def count(rule, shorten_factor, tokens):
  """Returns (how many groups end in each sequence, int (B,); how many slots there are for them, L / K rounded up).

  Groups without a slot are none of their own: their tokens go on with the last slot.

  Args:
    rule: see above.
    shorten_factor: K.
    tokens: (B, L), as in a corpus; the start token is put before them.
  """
  tokens = jnp.pad(jnp.asarray(tokens, jnp.int32), ((0, 0), (1, 0)))[:, :-1]
  return ends(rule, tokens, shorten_factor).sum(axis=1), -(-tokens.shape[1] // shorten_factor)


def told(counts):
  """Returns a line on what `count` returned."""
  n_groups, n_slots = counts
  over = jnp.maximum(0, n_groups - n_slots)
  return (f'groups at boundaries: {n_groups.mean():.1f} a window, which has {n_slots} slots; '
          f'{(over > 0).mean():.1%} of {len(over)} windows have more, and {over.sum() / max(1, n_groups.sum()):.2%} of '
          'all groups find no slot')
