"""Computes the attention of mode 'predict': one query at a time against the KV cache of all earlier calls.

The geometry is that of attention.py: groups of P queries and A keys, one of the two numbers being 1. A query of group
m sees the (m + 1) A keys of groups 0 .. m. A cache is a tuple of three:

    keys        (B, H, C, E)
    values      (B, H, C, E)
    distances   (P, H, C, E): row d of phase p is the projected distance from the p-th query of a group to the key d
                places before the last key that the group sees. Equal for all groups; None without relative positions.

Each of the three is cut along C into blocks, which are separate arrays, with ends that double: 512, 1024, 2048 ... A
query reads only the blocks in use, which a `lax.switch` selects. So its time follows the length so far, not the
capacity, and is at most twice the necessary time. Blocks are separate arrays because a slice of an array is a copy on a
CPU, and attention here costs little but reading keys. For the same reason blocks are written outside the switch: XLA
copies a block that some branches change and others pass on.

Bytes of a cache: (2 B + P) C D s, or 2 B C D s without positions, with C keys of s bytes per number.

Letters: B batch, H heads, E width of a head, D = H E, P queries per group, A keys per group, C capacity in keys.
"""

import itertools

import jax
import jax.numpy as jnp

_FIRST_BLOCK = 512  # Keys. A smaller block reads less at the beginning, but each doubling adds a branch to compile.
_MASKED = -1e9


def empty(batch, n_heads, width, capacity, dtype, queries_per_group=None):
  """Returns an empty cache.

  Args:
    batch: B.
    n_heads: H.
    width: E.
    capacity: C, a multiple of A.
    dtype: type of the cache.
    queries_per_group: P, or None for attention without relative positions.
  """
  def blocks(n):
    ends = _ends(capacity)
    return tuple(jnp.zeros((n, n_heads, end - start, width), dtype) for start, end in zip((0, *ends), ends))
  return blocks(batch), blocks(batch), queries_per_group and blocks(queries_per_group)


def _ends(capacity):
  doubling = itertools.takewhile(lambda end: end < capacity, (_FIRST_BLOCK * 2**i for i in itertools.count()))
  return (*doubling, capacity)


def distances(first, n, queries_per_group, keys_per_group):
  """Returns relative positions key - query (P, n) of rows first .. first + n - 1, in units of the finer sequence.

  Args:
    first: number of the first row; may be traced.
    n: number of rows.
    queries_per_group: P.
    keys_per_group: A.
  """
  last_keys = keys_per_group - 1 - first - jnp.arange(n)
  return queries_per_group * last_keys[None, :] - jnp.arange(queries_per_group)[:, None]


def write(cache, first, k, v, e=None):
  """Returns the cache after writing keys and values first .. first + n - 1 and as many rows of distances.

  Args:
    cache: the cache.
    first: number of the first new key; may be traced.
    k: keys (B, n, H, E).
    v: values (B, n, H, E).
    e: projected distances (P, n, H, E), or None.
  """
  written = tuple(blocks and _write(blocks, first, x.swapaxes(1, 2)) for blocks, x in zip(cache, (k, v, e)))
  # Without the barrier XLA would write a second time, into a copy, at the product that reads the block.
  return jax.lax.optimization_barrier(written)


def _write(blocks, first, x):
  """Writes x (., H, n, E), which may span several blocks; a block keeps its own values outside of x."""
  written, start, n = [], 0, x.shape[2]
  for block in blocks:
    size = block.shape[2]
    rows = min(n, size)  # Rows written to the block from `at` on; some may be the block's own.
    at = jnp.clip(first - start, 0, size - rows)
    own = jax.lax.dynamic_slice_in_dim(block, at, rows, axis=2)
    number = start + at + jnp.arange(rows) - first  # The row of x that belongs there, if any.
    new = jnp.take(x, jnp.clip(number, 0, n - 1), axis=2) if n > 1 else x
    here = ((number >= 0) & (number < n))[:, None]
    rows_of_block = jnp.where(here, new.astype(block.dtype), own)
    written.append(jax.lax.dynamic_update_slice_in_dim(block, rows_of_block, at, axis=2))
    start += size
  return tuple(written)


def attend(cache, n_seen, q, position=None, phase=0):
  """Returns the attention output (B, H, E), float32, before the output projection.

  Args:
    cache: the cache, which must hold all keys that the queries see.
    n_seen: number of keys that the queries see, from the first key on; may be traced.
    q: queries of the content scores (B, H, E), divided by sqrt(E).
    position: queries of the position scores (B, H, E), divided by sqrt(E); None without positions.
    phase: place p of the queries in their group; may be traced.
  """
  ends = list(itertools.accumulate(block.shape[2] for block in cache[0]))

  def over(n_blocks):
    """Returns the attention function over the first `n_blocks` blocks."""
    def attend_to(q, position, cache):
      keys, values, table = (blocks and blocks[:n_blocks] for blocks in cache)
      scores = _concatenate([_product('bhe,bhke->bhk', q, block) for block in keys])
      if position is not None:
        rows = _concatenate([_product('bhe,hke->bhk', position, jax.lax.dynamic_index_in_dim(block, phase, 0, False))
                             for block in table])
        scores += _from_last_key_back(rows, n_seen)
      scores = jnp.where(jnp.arange(scores.shape[-1]) < n_seen, scores, _MASKED)
      weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
      weights = jax.lax.optimization_barrier(weights)  # Computed once, for the sum and for each block's product.
      total = weights.sum(axis=-1, keepdims=True)
      parts = jnp.split(weights, ends[:n_blocks - 1], axis=-1)
      return sum(_product('bhk,bhke->bhe', part, block) for part, block in zip(parts, values)) / total
    return attend_to

  branch = sum((n_seen > end).astype(jnp.int32) for end in ends[:-1])
  return jax.lax.switch(branch, [over(n + 1) for n in range(len(ends))], q, position, cache)


def _from_last_key_back(rows, n_seen):
  """Reorders position scores (..., C) from distance to key; entry 0 of `rows` belongs to the last key seen.

  Keys that are not seen get arbitrary scores.
  """
  n = rows.shape[-1]
  reversed_rows = jnp.pad(rows[..., ::-1], [(0, 0)] * (rows.ndim - 1) + [(0, n)])
  return jax.lax.dynamic_slice_in_dim(reversed_rows, n - n_seen, n, axis=-1)


def _product(equation, a, b):
  """Computes an Einstein sum with factors in the type of b and a float32 result."""
  return jnp.einsum(equation, a.astype(b.dtype), b, preferred_element_type=jnp.float32)


def _concatenate(arrays):
  return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays, axis=-1)
