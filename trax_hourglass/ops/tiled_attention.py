"""Computes causal softmax attention in tiles of scores: exact, without an array of size L x L in either pass.

Queries are cut into blocks, keys into spans; a tile is the scores of one block against one span (tiling.py). One loop
runs over the tiles up to the diagonal, of all heads, so that one body is compiled and no array passes between loops.
The softmax is accumulated span by span (arXiv 1805.02867). The backward pass recomputes each tile from the queries, the
keys and the logarithm of the softmax's denominator (arXiv 2205.14135). Dropout masks are recomputed too (dropout.py).

Relative positions add to each score a product of the query with an embedded distance. The distances of a tile's queries
overlap. So a tile's position scores are one product with a slice of the embedding, with its rows then skewed (arXiv
1809.04281, generalized to groups).

On a CPU heads and sequences are computed one after the other, so that a tile stays in the CPU cache. Other platforms
compute all heads and sequences at once.

Letters: B batch, H heads, E width of a head. P queries per group, A keys per group; M groups, Q = M P queries, K = M A
keys or distances. N blocks of G groups, and C keys in a span; h heads and b rows of the batch at once. See attention.py
for the geometry.
"""


import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from trax_hourglass.ops import attention_vjp
from trax_hourglass.ops import positions as positions_lib
from trax_hourglass.ops import remat
from trax_hourglass.ops import tiling as tiling_lib
from trax_hourglass.runtime import sharding

# On two CPU cores, smaller tiles waste less work above the diagonal but have slower products. Larger tiles exceed the
# CPU cache. benchmarks/attention.py measures both.
_BLOCK_QUERIES = 512
_SPAN_KEYS = 512


def _forward(q, k, v, positions, head_keys, queries_per_group, rate):
  tiling = _tiling(q, k, queries_per_group)
  padded_q, padded_k, padded_v, padded_positions = _padded_to(tiling, q, k, v, positions)

  def tile(place, carry):
    highest, total, out = (place.queries(x) for x in carry)
    scores = _scores(place, padded_q, padded_k, padded_positions)
    new_highest = jnp.maximum(highest, scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - new_highest)
    shrink = jnp.exp(highest - new_highest)
    dropped = jnp.where(place.kept(head_keys, rate), weights, place.constant(0)) if rate > 0.0 else weights
    product = _product(_rows(dropped.astype(v.dtype)), place.keys(padded_v))
    new = new_highest, total * shrink + weights.sum(axis=-1, keepdims=True), out * shrink + product.reshape(out.shape)
    return tuple(place.put_queries(x, block) for x, block in zip(carry, new))

  one = jnp.full(padded_q.shape[:-1] + (1,), _zero_of(q).astype(jnp.float32))
  highest, total, out = _over_tiles(tiling, padded_q, tile,
                                    (one + attention_vjp.MASKED, one, jnp.broadcast_to(one, padded_q.shape)))
  out = checkpoint_name((out / (total * (1 - rate)))[:, :q.shape[1]].astype(v.dtype), remat.SAVED)
  return out, (out, checkpoint_name(highest + jnp.log(total), remat.SAVED))


def _backward(queries_per_group, rate, inputs, kept, d_out):
  q, k, v, positions, head_keys = inputs
  out, log_total = kept
  tiling = _tiling(q, k, queries_per_group)
  padded_q, padded_k, padded_v, padded_positions = _padded_to(tiling, q, k, v, positions)
  # The softmax's part of the gradient: one number per query, the product of the output and its gradient.
  inner = tiling.pad_queries((d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1, keepdims=True))
  d_out = tiling.pad_queries((d_out / (1 - rate)).astype(d_out.dtype))
  # XLA's products are fast if the left factor's reduced axis is last. Without a transpose it would come first here.
  q_columns, d_out_columns, position_columns = jax.lax.optimization_barrier(
      jax.tree.map(tiling.transposed, (padded_q, d_out, positions and padded_positions[0])))

  def tile(place, carry):
    dq, dk, dv, d_positions = carry
    weights = jnp.exp(_scores(place, padded_q, padded_k, padded_positions) - place.queries(log_total))
    if rate > 0.0:  # Dropped weights get a negative sign, so that exponential and mask are computed once.
      weights *= jnp.where(place.kept(head_keys, rate), place.constant(1), place.constant(-1))
    weights = jax.lax.optimization_barrier(weights)
    d_weights = _product_of_rows(_rows(place.queries(d_out)), place.keys(padded_v)).reshape(weights.shape)
    d_weights = jnp.where(weights > 0, d_weights, place.constant(0)) - place.queries(inner)
    # Several products need both arrays; without the barrier XLA would recompute them for each product.
    dropped, d_scores = jax.lax.optimization_barrier(
        (jnp.maximum(weights, 0).astype(v.dtype), (jnp.abs(weights) * d_weights).astype(k.dtype)))
    dv = place.add_keys(dv, _product(_flat(place.columns(d_out_columns)), _rows(dropped)))
    dk = place.add_keys(dk, _product(_flat(place.columns(q_columns)), _rows(d_scores)))
    here = _product(_rows(d_scores), place.keys(padded_k))
    dq = place.put_queries(dq, place.queries(dq) + here.reshape(d_scores.shape[:-1] + here.shape[-1:]))
    if positions is not None:
      d_position_q, de, scratch = d_positions
      scratch, straight = _unskew(tiling, scratch, d_scores)
      columns = place.columns(position_columns).swapaxes(2, 3)
      de = place.add_distances(de, _product(columns, straight).sum(axis=1))
      here = _product(straight, place.distances(padded_positions[1])[:, None])
      d_positions = place.put_queries(d_position_q, place.queries(d_position_q) + here), de, scratch
    return dq, dk, dv, d_positions

  # Zeros that depend on the gradient: XLA for CPUs would allocate constant zeros at once, and keep them until then.
  zero = _zero_of(d_out).astype(jnp.float32)
  zeros = lambda x: jnp.full(x.shape, zero)
  d_positions = None
  if positions is not None:
    scratch = jnp.full((*_at_once(padded_q), queries_per_group, tiling.block_groups + 2,
                        tiling.tile_distances - tiling.keys_per_group), zero.astype(k.dtype))
    d_positions = zeros(padded_q), zeros(padded_positions[1]), scratch
  dq, dk, dv, d_positions = _over_tiles(
      tiling, padded_q, tile, (zeros(padded_q), zeros(padded_k), zeros(padded_v), d_positions))
  if positions is not None:
    queries, e = positions
    d_positions = (d_positions[0][:, :q.shape[1]].astype(queries.dtype),
                   tiling.unpad_distances(d_positions[1]).astype(e.dtype))
  return (dq[:, :q.shape[1]].astype(q.dtype), dk[:, :k.shape[1]].astype(k.dtype), dv[:, :v.shape[1]].astype(v.dtype),
          d_positions)


attend = attention_vjp.with_gradient(_forward, _backward)


def _tiling(q, k, queries_per_group):
  return tiling_lib.Tiling.of(q.shape[1], k.shape[1], queries_per_group, _BLOCK_QUERIES, _SPAN_KEYS)


def _padded_to(tiling, q, k, v, positions):
  if positions is not None:
    positions = tiling.pad_queries(positions[0]), tiling.pad_distances(positions[1])
  return tiling.pad_queries(q), tiling.pad_keys(k), tiling.pad_keys(v), positions


def _at_once(queries):
  """Returns the numbers of heads and of rows of the batch, of queries (B, Q, H, E), that one iteration computes."""
  return (1, 1) if sharding.platform() == 'cpu' else (queries.shape[2], queries.shape[0])


def _over_tiles(tiling, queries, tile, carry):
  """Returns the carry after `tile` (place, carry) -> carry for all tiles of queries (B, Q, H, E)."""
  n_heads, n_rows = _at_once(queries)
  blocks, spans = map(jnp.asarray, tiling.tiles)
  rows = queries.shape[0] // n_rows

  def turn(number, carry):
    # Masks depend on the number only. Without this XLA would compute the masks of all tiles once, and store them.
    number += _zero_of(queries)
    head_and_row, number = number // blocks.size, number % blocks.size
    head, row = n_heads * (head_and_row // rows), n_rows * (head_and_row % rows)
    return tile(tiling_lib.Place(tiling, n_heads, n_rows, head, row, blocks[number], spans[number]), carry)

  return jax.lax.fori_loop(0, queries.shape[2] // n_heads * rows * blocks.size, turn, carry)


def _zero_of(x):
  """Returns 0, int32, through arithmetic on an array (B, Q, H, E) that no compiler simplifies.

  A barrier would also serve, but XLA for GPUs evaluates the iteration numbers of a loop, and stops at a barrier.
  """
  one = x[0, 0, 0, 0]
  return ((one < 0) & (one > 0)).astype(jnp.int32)


def _scores(place, q, k, positions):
  """Returns the scores of a tile, float32 (h, b, P, G, C), from padded arguments of `attend`."""
  block = place.queries(q)
  scores = _product_of_rows(_rows(block), place.keys(k)).reshape(block.shape[:-1] + (place.tiling.span_keys,))
  if positions is not None:
    position_scores = _product_of_rows(place.queries(positions[0]), place.distances(positions[1])[:, None])
    scores += positions_lib.skew(position_scores, place.tiling.keys_per_group)[..., :place.tiling.span_keys]
  return jnp.where(place.visible(), scores, place.constant(attention_vjp.MASKED))


def _unskew(tiling, scratch, x):
  """Inverts `skew`: x (h, b, P, G, C) -> (h, b, P, G, tile's distances), with zeros elsewhere.

  Args:
    tiling: the tiling.Tiling.
    scratch: zeros, except where earlier calls wrote their tiles, (h, b, P, G + 2, tile's distances - A). This is
      cheaper than padding, which would write the zeros in each call.
    x: a tile.

  Returns:
    The scratch for the next call, and the result.
  """
  scratch = jax.lax.dynamic_update_slice(scratch, x, (0, 0, 0, 1, 0))
  first = scratch.shape[-1] - tiling.keys_per_group * (tiling.block_groups - 1)
  flat = scratch.reshape(*x.shape[:3], -1)[..., first:first + tiling.block_groups * tiling.tile_distances]
  flat = jax.lax.optimization_barrier(flat)
  return scratch, flat.reshape(*x.shape[:4], tiling.tile_distances)


def _product(a, b):
  """Computes the matrix product over the last two axes, summed in float32."""
  return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _product_of_rows(a, b):
  """Computes all products of rows in float32: (h, x, ..., n, E) and (h, x or 1, ..., m, E) -> (h, x, ..., n, m)."""
  return jnp.einsum('...ne,...me->...nm', a, b, preferred_element_type=jnp.float32)


def _rows(x):
  """Flattens the rows of a tile: (..., P, G, n) -> (..., P G, n)."""
  return x.reshape(*x.shape[:-3], -1, x.shape[-1])


def _flat(x):
  """Flattens the columns of a block: (..., P, G) -> (..., P G)."""
  return x.reshape(*x.shape[:-2], -1)
