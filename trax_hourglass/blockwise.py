"""Causal softmax attention in tiles of scores: exact, and nothing of size L x L ever exists, forward or backward.

Queries are cut into blocks, keys into spans; a tile is the scores of one block against one span. The loop over a block's
spans ends at the diagonal, and since its length is only known while it runs, one compiled body serves all of them. The
softmax is gathered span by span (arXiv 1805.02867); the backward pass makes each tile again from the queries, the keys and
the logarithm of the softmax's denominator (arXiv 2205.14135), and so do dropout masks (see dropout.py).

Relative positions add to each score a product of the query with an embedded distance. Distances within a tile overlap from
query to query, so a tile's position scores are one product with a slice of the embedding, whose rows are then skewed
(arXiv 1809.04281, generalised to groups).

On a CPU heads go one after the other, so that a tile stays in the cache; elsewhere all heads go at once.

Letters: B batch, H heads, M groups, P queries per group, A keys per group, Q = M P queries, K = M A keys or distances,
E width of a head; N blocks of G groups, and C keys in a span. See attention.py for the geometry.
"""

import dataclasses
import functools
import math

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from trax_hourglass import dropout as dropout_lib
from trax_hourglass import keys

# Forward and backward of 8 heads over 2046 vectors on 2 cores: 0.43 s so, 0.40 s with 512 x 512 and twice the memory a tile,
# 0.45 to 0.52 s with smaller ones. benchmarks/attention.py measures it elsewhere.
_BLOCK_QUERIES = 256
_SPAN_KEYS = 512
_MASKED = -1e9  # The score of a key in the future; as in Trax.
SAVED = 'attention_output'  # What the backward pass needs of the forward pass, for policies of recomputation.


@dataclasses.dataclass(frozen=True)
class _Tiling:
  """How a sequence is cut; all lengths static.

  Attributes:
    queries_per_group: P.
    keys_per_group: A.
    n_groups: M.
    n_blocks: N.
    block_groups: G; N G groups are M and some padding.
    n_spans: number of spans.
    span_keys: C.
  """
  queries_per_group: int
  keys_per_group: int
  n_groups: int
  n_blocks: int
  block_groups: int
  n_spans: int
  span_keys: int

  @classmethod
  def of(cls, n_queries, n_keys, queries_per_group):
    """Cuts evenly: 300 groups make two blocks of 150, not one of 256 and one almost empty."""
    n_groups = n_queries // queries_per_group
    keys_per_group = n_keys // n_groups
    n_blocks = -(-n_groups * max(queries_per_group, keys_per_group) // _BLOCK_QUERIES)
    n_blocks = min(n_blocks, n_groups)
    block_groups = -(-n_groups // n_blocks)
    n_keys = n_blocks * block_groups * keys_per_group
    n_spans = -(-n_keys // _SPAN_KEYS)
    return cls(queries_per_group, keys_per_group, n_groups, n_blocks, block_groups, n_spans, -(-n_keys // n_spans))

  @property
  def block_keys(self):
    """Keys of a block's groups."""
    return self.block_groups * self.keys_per_group

  @property
  def tile_distances(self):
    """Different distances of a tile, a group more than occur: the skew cuts A from each row."""
    return self.span_keys + self.block_keys

  @property
  def padding_groups(self):
    """Groups added at the end."""
    return self.n_blocks * self.block_groups - self.n_groups

  def spans_of(self, block):
    """How many spans a block's queries see."""
    return ((block + 1) * self.block_keys + self.span_keys - 1) // self.span_keys

  def first_distance(self, block, span):
    """Where a tile's slice of the embedded distances begins."""
    return span * self.span_keys + (self.n_blocks - 1 - block) * self.block_keys

  def blocks(self, x):
    """Cuts queries: (B, Q, H, E) -> (H, N, B, P, G, E)."""
    x = jnp.pad(x, ((0, 0), (0, self.padding_groups * self.queries_per_group), (0, 0), (0, 0)))
    x = x.reshape(x.shape[0], self.n_blocks, self.block_groups, self.queries_per_group, *x.shape[2:])
    return x.transpose(4, 1, 0, 3, 2, 5)

  def from_blocks(self, x):
    """Undoes `blocks`."""
    x = x.transpose(2, 1, 4, 3, 0, 5)
    return x.reshape(x.shape[0], -1, *x.shape[4:])[:, :self.n_groups * self.queries_per_group]

  def spans(self, x):
    """Pads and transposes keys: (B, K, H, E) -> (H, B, E, all spans' keys)."""
    x = jnp.pad(x, ((0, 0), (0, self.n_spans * self.span_keys - x.shape[1]), (0, 0), (0, 0)))
    return x.transpose(2, 0, 3, 1)

  def from_spans(self, x):
    """Undoes `spans`."""
    return x.transpose(1, 3, 0, 2)[:, :self.n_groups * self.keys_per_group]

  def distances(self, e):
    """Pads and transposes embedded distances: (P, K, H, E) -> (H, P, E, distances that slices may reach)."""
    before = self.padding_groups * self.keys_per_group
    e = jnp.pad(e, ((0, 0), (before, self.tile_distances), (0, 0), (0, 0)))  # Behind lies the future, always masked.
    return e.transpose(2, 0, 3, 1)

  def from_distances(self, e):
    """Undoes `distances`."""
    before = self.padding_groups * self.keys_per_group
    return e.transpose(1, 3, 0, 2)[:, before:before + self.n_groups * self.keys_per_group]

  def query_numbers(self, batch, block):
    """Numbers a block's queries, counting through a sequence and then through the batch: (B, P, G, 1)."""
    group = block * self.block_groups + jnp.arange(self.block_groups)
    query = group * self.queries_per_group + jnp.arange(self.queries_per_group)[:, None]
    return (jnp.arange(batch)[:, None, None] * (self.n_groups * self.queries_per_group) + query)[..., None]


@functools.partial(jax.jit, static_argnames=('queries_per_group', 'rate'))  # Equal attentions are traced once.
def attend(q, k, v, positions, key, queries_per_group, rate):
  """Returns the attention's output (B, Q, H, E), before the output projection.

  Args:
    q: queries of the content scores (B, Q, H, E), divided by sqrt(E).
    k: keys (B, K, H, E).
    v: values (B, K, H, E).
    positions: None, or (queries of the position scores (B, Q, H, E), divided by sqrt(E); embedded distances (P, K, H, E)).
    key: JAX PRNG key uint32 (2,); needed where rate > 0.
    queries_per_group: P.
    rate: dropout of attention weights, in [0, 1).
  """
  head_keys = keys.split(key, q.shape[2]) if rate > 0.0 else None
  return _attend(q, k, v, positions, head_keys, queries_per_group, rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(q, k, v, positions, head_keys, queries_per_group, rate):
  return _forward(q, k, v, positions, head_keys, queries_per_group, rate)[0]


def _forward(q, k, v, positions, head_keys, queries_per_group, rate):
  tiling = _Tiling.of(q.shape[1], k.shape[1], queries_per_group)
  out, log_total = _over_heads(functools.partial(_head_forward, tiling, rate),
                               *_cut(tiling, q, k, v, positions), head_keys)
  out = checkpoint_name(tiling.from_blocks(out), SAVED)
  log_total = checkpoint_name(log_total, SAVED)
  return out, (q, k, v, positions, head_keys, out, log_total)


def _backward(queries_per_group, rate, saved, d_out):
  q, k, v, positions, head_keys, out, log_total = saved
  tiling = _Tiling.of(q.shape[1], k.shape[1], queries_per_group)
  # The softmax's own part of the gradient: one number a query, the product of output and its gradient.
  inner = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1, keepdims=True)
  dq, dk, dv, d_positions = _over_heads(
      functools.partial(_head_backward, tiling, rate), *_cut(tiling, q, k, v, positions), head_keys,
      tiling.blocks(d_out), log_total, tiling.blocks(inner))
  if positions is not None:
    queries, e = positions
    d_positions = (tiling.from_blocks(d_positions[0]).astype(queries.dtype),
                   tiling.from_distances(d_positions[1]).astype(e.dtype))
  return (tiling.from_blocks(dq).astype(q.dtype), tiling.from_spans(dk).astype(k.dtype),
          tiling.from_spans(dv).astype(v.dtype), d_positions, None)


_attend.defvjp(_forward, _backward)


def _cut(tiling, q, k, v, positions):
  if positions is not None:
    positions = tiling.blocks(positions[0]), tiling.distances(positions[1])
  return tiling.blocks(q), tiling.spans(k), tiling.spans(v), positions


def _over_heads(function, *args):
  if jax.default_backend() == 'cpu':
    return jax.lax.map(lambda head: function(*head), args)
  return jax.vmap(function)(*args)


def _head_forward(tiling, rate, q, k, v, positions, key):
  """Attention of one head.

  Args:
    tiling: the _Tiling.
    rate: dropout rate.
    q: (N, B, P, G, E).
    k: (B, E, K).
    v: (B, E, K).
    positions: None, or ((N, B, P, G, E), (P, E, distances)).
    key: this head's dropout key, or None.

  Returns:
    Output (N, B, P, G, E), and the logarithm of the softmax's denominator (N, B, P, G, 1).
  """
  values = v.swapaxes(1, 2)

  def block(args):
    number, q, position_q = args

    def span(n, carry):
      highest, total, out = carry
      scores = _scores(tiling, number, n, q, k, _position_tile(tiling, number, n, position_q, positions))
      new_highest = jnp.maximum(highest, scores.max(axis=-1, keepdims=True))
      weights = jnp.exp(scores - new_highest)
      shrink = jnp.exp(highest - new_highest)
      dropped = _drop(tiling, rate, number, n, key, weights).astype(v.dtype)
      here = jax.lax.dynamic_slice_in_dim(values, n * tiling.span_keys, tiling.span_keys, axis=1)
      out = out * shrink + _product(_rows(dropped), here).reshape(out.shape)
      return new_highest, total * shrink + weights.sum(axis=-1, keepdims=True), out

    zero = jnp.zeros(q.shape[:-1] + (1,), jnp.float32)
    highest, total, out = jax.lax.fori_loop(
        0, tiling.spans_of(number), span, (zero + _MASKED, zero, jnp.zeros(q.shape, jnp.float32)))
    return (out / total).astype(v.dtype), highest + jnp.log(total)

  return jax.lax.map(block, (jnp.arange(tiling.n_blocks), q, positions and positions[0]))


def _head_backward(tiling, rate, q, k, v, positions, key, d_out, log_total, inner):
  """Gradients of one head; arguments as in `_head_forward`, d_out as its output, inner (N, B, P, G, 1).

  Returns:
    Gradients of q, k, v and positions, float32.
  """
  keys_as_rows = k.swapaxes(1, 2)
  e_as_rows = positions and positions[1].swapaxes(1, 2)
  _, batch, queries_per_group, block_groups, _ = q.shape

  def block(totals, args):
    number, q, position_q, d_out, log_total, inner = args
    # XLA's products want the reduced axis last on the left and first on the right. These are the small factors.
    q_t, position_q_t, d_out_t = jax.lax.optimization_barrier(
        (_rows(q).swapaxes(1, 2), positions and position_q.swapaxes(2, 3), _rows(d_out).swapaxes(1, 2)))

    def span(n, carry):
      dq, d_position_q, (dk, dv, de, scratch) = carry
      first, distance = n * tiling.span_keys, tiling.first_distance(number, n)
      scores = _scores(tiling, number, n, q, k, _position_tile(tiling, number, n, position_q, positions))
      weights = jnp.exp(scores - log_total)
      d_weights = _drop(tiling, rate, number, n, key, _product(_rows(d_out), _columns(v, first, tiling.span_keys))
                        .reshape(weights.shape))
      # Both are needed by several products; left to itself XLA would make them again for each.
      dropped, d_scores = jax.lax.optimization_barrier(
          (_drop(tiling, rate, number, n, key, weights).astype(v.dtype),
           (weights * (d_weights - inner)).astype(k.dtype)))
      dv = _add_columns(dv, _product(d_out_t, _rows(dropped)), first)
      dk = _add_columns(dk, _product(q_t, _rows(d_scores)), first)
      rows = jax.lax.dynamic_slice_in_dim(keys_as_rows, first, tiling.span_keys, axis=1)
      dq += _product(_rows(d_scores), rows).reshape(dq.shape)
      if positions is not None:
        scratch, straight = _unskew(tiling, scratch, d_scores)
        de = _add_columns(de, _product(position_q_t, straight).sum(axis=0), distance)
        rows = jax.lax.dynamic_slice_in_dim(e_as_rows, distance, tiling.tile_distances, axis=1)
        d_position_q += _product(straight, rows[None])
      return dq, d_position_q, (dk, dv, de, scratch)

    zero = jnp.zeros(q.shape, jnp.float32)
    dq, d_position_q, totals = jax.lax.fori_loop(
        0, tiling.spans_of(number), span, (zero, positions and zero, totals))
    return totals, (dq, d_position_q)

  de = scratch = None
  if positions is not None:
    de = jnp.zeros(positions[1].shape, jnp.float32)
    scratch = jnp.zeros((batch, queries_per_group, block_groups + 2, tiling.tile_distances - tiling.keys_per_group), k.dtype)
  totals = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32), de, scratch
  (dk, dv, de, _), (dq, d_position_q) = jax.lax.scan(
      block, totals, (jnp.arange(tiling.n_blocks), q, positions and positions[0], d_out, log_total, inner))
  return dq, dk, dv, positions and (d_position_q, de)


def _scores(tiling, block, span, q, k, position_scores):
  """Scores of a tile, float32 (B, P, G, C); position scores of that shape, or 0."""
  shape = q.shape[:-1] + (tiling.span_keys,)
  scores = _product(_rows(q), _columns(k, span * tiling.span_keys, tiling.span_keys)).reshape(shape) + position_scores
  group = block * tiling.block_groups + jnp.arange(tiling.block_groups)
  number = span * tiling.span_keys + jnp.arange(tiling.span_keys)
  return jnp.where(number < (group[:, None] + 1) * tiling.keys_per_group, scores, _MASKED)


def _position_tile(tiling, block, span, q, positions):
  """Position scores of a tile, (B, P, G, C), or 0 without positions; q (B, P, G, E)."""
  if positions is None:
    return 0.0
  e = _columns(positions[1], tiling.first_distance(block, span), tiling.tile_distances)
  return _skew(_product(q, e[None]), tiling.keys_per_group)[..., :tiling.span_keys]


def _drop(tiling, rate, block, span, key, x):
  """Dropout of a tile's weights, or of their gradients."""
  rows = tiling.query_numbers(x.shape[0], block)
  columns = span * tiling.span_keys + jnp.arange(tiling.span_keys)
  return dropout_lib.drop(x, key, rate, rows, columns)


def _skew(x, step):
  """Shifts row i of (..., n, width) left by (n - 1 - i) * step and keeps the first width - step columns.

  The rows lie behind each other in memory, so the shift is a change of row length. The barrier makes XLA read that
  memory in order, where it would otherwise compute row and column of each element anew.
  """
  *lead, n, width = x.shape
  flat = jax.lax.optimization_barrier(x.reshape(*lead, n * width))
  kept = width - step
  return flat[..., step * (n - 1):step * (n - 1) + n * kept].reshape(*lead, n, kept)


def _unskew(tiling, scratch, x):
  """Undoes `_skew`: x (B, P, G, C) -> (B, P, G, tile's distances), zeros where nothing came from.

  Args:
    tiling: the _Tiling.
    scratch: zeros but for what earlier calls put in the same places, (B, P, G + 2, tile's distances - A); cheaper than
      padding, which would write the zeros again each time, one by one.
    x: a tile.

  Returns:
    The scratch for the next call, and the result.
  """
  scratch = jax.lax.dynamic_update_slice(scratch, x, (0, 0, 1, 0))
  first = scratch.shape[3] - tiling.keys_per_group * (tiling.block_groups - 1)
  flat = scratch.reshape(*x.shape[:2], -1)[..., first:first + tiling.block_groups * tiling.tile_distances]
  flat = jax.lax.optimization_barrier(flat)
  return scratch, flat.reshape(*x.shape[:3], tiling.tile_distances)


def _product(a, b):
  """Matrix product of the last two axes, added up in float32."""
  return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _rows(x):
  """(B, P, G, n) -> (B, P G, n)."""
  return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


def _columns(x, first, n):
  return jax.lax.dynamic_slice_in_dim(x, first, n, axis=x.ndim - 1)


def _add_columns(total, x, first):
  return jax.lax.dynamic_update_slice_in_dim(total, _columns(total, first, x.shape[-1]) + x, first, axis=total.ndim - 1)
