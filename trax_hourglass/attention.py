"""Causal relative attention at one rate or across two, as pure functions that never hold an L x L array.

One geometry covers the three uses in an Hourglass. Queries and keys come in M groups; one group is `queries_per_group`
queries and `keys_per_group` keys, of which one is always 1:

    within a level      1 query, 1 key      query i sees keys <= i
    shortening by k     1 query, k keys     coarse query i sees the fine keys of groups <= i
    upsampling by k     k queries, 1 key    fine query i sees coarse keys <= i // k

A query of group m sees the keys of groups 0 .. m. Work is done in blocks of groups: a few segments, each against the
keys up to its own last group, and each a loop over blocks. So little is computed right of the diagonal, the compiled
program does not grow with the length, and every block is made again in the backward pass instead of being kept.

Scores are those of Transformer-XL (arXiv 1901.02860, section 3.3; paper section 2): content (q + c) . k_j and position
(q + l) . e(r), where r is the distance from query to key and e a projected sinusoid. e depends on j - m *
keys_per_group only, so a block's position scores are one product with a slice of e whose rows are then skewed.

Letters: B batch, H heads, M groups, P queries per group, A keys per group, Q = M P queries, K = M A keys, S = K + A
distances, D model width, E width of a head.
"""

import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from trax_hourglass import dropout as dropout_lib
from trax_hourglass import keys

_SEGMENTS = 2  # 2 compute 3/4 of the square; 4 would compute 5/8 and take a third longer to compile, for 3 % of a step.
_BLOCK_QUERIES = 512  # 256 to 1024 are equally fast on a CPU; more would only hold larger blocks of scores.
OUTPUT = 'attention_output'  # The name of this result for policies of recomputation.
_MASKED = -1e9  # The score of a key in the future; as in Trax.


def block_groups(n_groups, queries_per_group):
  """Returns how many groups make a block; `relative_attention` wants whole blocks.

  Args:
    n_groups: M.
    queries_per_group: P.
  """
  return min(-(-n_groups // _SEGMENTS), max(1, _BLOCK_QUERIES // queries_per_group))


def distances(n_groups, queries_per_group, keys_per_group):
  """Returns the relative positions r = key - query that occur, (P, S), in units of the finer of the two sequences.

  Column s belongs to the key that lies s - A (M - 1) keys after the first key of the query's group. The last A columns
  are in the future and always masked; the skew needs them.

  Args:
    n_groups: M.
    queries_per_group: P.
    keys_per_group: A.
  """
  keys_ahead = np.arange(-keys_per_group * (n_groups - 1), 2 * keys_per_group)
  return queries_per_group * keys_ahead[None, :] - np.arange(queries_per_group)[:, None]


def sinusoids(positions, d_model):
  """Returns (..., D) sines of all frequencies, then cosines, for positions (...); arXiv 1901.02860 as Trax has it."""
  frequencies = 1 / 10000 ** (jnp.arange(0.0, d_model, 2.0) / d_model)
  angles = jnp.asarray(positions, jnp.float32)[..., None] * frequencies
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


@functools.partial(jax.jit, static_argnames='rate')  # Equal attentions of a model are traced once.
def relative_attention(q, k, v, e, context_bias, location_bias, rate=0.0, key=None):
  """Returns the attention's output (B, Q, H, E), before the output projection.

  Args:
    q: queries (B, Q, H, E), whole blocks of groups (see `block_groups`).
    k: keys (B, K, H, E).
    v: values (B, K, H, E).
    e: projected distances (P, S, H, E), in the order of `distances`.
    context_bias: (H, E), added to the queries of the content scores.
    location_bias: (H, E), added to the queries of the position scores.
    rate: dropout of attention weights, in [0, 1).
    key: JAX PRNG key uint32 (2,); needed where rate > 0.

  Raises:
    ValueError: the lengths are not whole groups and blocks.
  """
  batch, n_queries, n_heads, d_head = q.shape
  queries_per_group, n_distances = e.shape[:2]
  n_keys = k.shape[1]
  keys_per_group = n_distances - n_keys
  n_groups = n_queries // queries_per_group
  size = block_groups(n_groups, queries_per_group)
  if n_groups * queries_per_group != n_queries or n_groups * keys_per_group != n_keys or n_groups % size:
    raise ValueError(f'{n_queries} queries and {n_keys} keys are not whole blocks of {size} groups of '
                     f'{queries_per_group} queries and {keys_per_group} keys')
  q = q.reshape(batch, n_groups // size, size, queries_per_group, n_heads, d_head)
  head_keys = keys.split(key, n_heads) if rate > 0.0 else None

  def head(inputs):
    q, *rest = inputs
    segments = [_segment(q, *rest, first=first, last=last, rate=rate)
                for first, last in _segment_bounds(n_groups // size)]
    return jnp.concatenate(segments)

  # One head after the other: a block of scores then stays in the processor's cache.
  out = jax.lax.map(head, (q.transpose(4, 1, 0, 3, 2, 5), k.transpose(2, 0, 1, 3), v.transpose(2, 0, 1, 3),
                           e.transpose(2, 0, 1, 3), context_bias, location_bias, head_keys))  # H N B P size E
  return checkpoint_name(out.transpose(2, 1, 4, 3, 0, 5).reshape(batch, n_queries, n_heads, d_head), OUTPUT)


def _segment_bounds(n_blocks):
  """Returns the (first, last) blocks, last exclusive, of each segment."""
  bounds = [n_blocks * i // _SEGMENTS for i in range(_SEGMENTS + 1)]
  return [(first, last) for first, last in zip(bounds, bounds[1:]) if first < last]


def _segment(q, k, v, e, context_bias, location_bias, key, *, first, last, rate):
  """Attention of the queries in blocks first .. last - 1 of one head.

  Args:
    q: (N blocks, B, P, groups of a block, E).
    k: (B, K, E).
    v: (B, K, E).
    e: (P, S, E).
    context_bias: (E,).
    location_bias: (E,).
    key: this head's dropout key, or None.
    first: first block.
    last: block after the last.
    rate: dropout rate.

  Returns:
    (last - first, B, P, groups of a block, E).
  """
  n_blocks, size, n_groups = q.shape[0], q.shape[3], q.shape[0] * q.shape[3]
  keys_per_group = k.shape[1] // n_groups
  n_keys = last * size * keys_per_group

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def block(q, number, k, v, e):
    group = number * size + jnp.arange(size)
    # Rows of e that the block's last query needs come first; for earlier queries the skew moves on.
    start = keys_per_group * (n_blocks - 1 - number) * size
    e = jax.lax.dynamic_slice_in_dim(e, start, n_keys + keys_per_group, axis=1)
    scores = (jnp.einsum('bpme,bke->bpmk', q + context_bias, k) +
              _skew(jnp.einsum('bpme,pse->bpms', q + location_bias, e), keys_per_group))
    scores = (scores / np.sqrt(q.shape[-1])).astype(jnp.float32)
    scores = jnp.where(jnp.arange(n_keys) < (group[:, None] + 1) * keys_per_group, scores, _MASKED)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    if rate > 0.0:
      rows = _query_numbers(*weights.shape[:2], group, n_groups)
      weights = dropout_lib.drop(weights, key, rate, rows, jnp.arange(n_keys))
    return (jnp.einsum('bpmk,bke->bpme', weights.astype(v.dtype), v) / total).astype(v.dtype)

  # Past its end e is read only for keys in the future of the segment's earlier blocks.
  overrun = (last - first - 1) * size * keys_per_group
  k, v, e = k[:, :n_keys], v[:, :n_keys], jnp.pad(e, ((0, 0), (0, overrun), (0, 0)))
  if last - first == 1:
    return block(q[first], first, k, v, e)[None]
  return jax.lax.map(lambda args: block(*args, k, v, e), (q[first:last], jnp.arange(first, last)))


def _query_numbers(batch, queries_per_group, groups, n_groups):
  """Numbers all queries of a batch, (B, P, len(groups), 1), counting from the sequence and not from the block."""
  sequence = jnp.arange(batch)[:, None, None, None] * (n_groups * queries_per_group)
  query = groups[:, None] * queries_per_group + jnp.arange(queries_per_group)[:, None, None]
  return sequence + query


def _skew(x, step):
  """Shifts row i of (..., n, width) left by (n - 1 - i) * step and keeps the first width - step columns.

  The rows lie behind each other in memory, so the shift is a change of row length.
  """
  *lead, n, width = x.shape
  kept = width - step
  flat = x.reshape(*lead, n * width)
  return flat[..., step * (n - 1):step * (n - 1) + n * kept].reshape(*lead, n, kept)
