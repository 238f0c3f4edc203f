"""The bodies of tpu_attention.py's kernels: one turn's work on its tile of scores.

A turn is one tile, of one block of heads, in one row of the batch. A tile is b queries of one place in their groups
against b keys of one place in theirs, so that its rows and columns are groups: a query of group m sees keys of groups
<= m. The lanes of an array are the widths of a block's heads, side by side. One head's share is taken by zeroing the
lanes of the others: the product is as wide as the lanes in any case.

The position scores of a strip of R queries are one product with its distances. Row r of them moves R - r lanes to the
left, in registers, by `pltpu.roll` with a stride (the skew of arXiv 1809.04281). The gradient moves the other way, for
which a stride would be negative: the strip's rows are turned upside down first.

Letters: M groups, P queries per group, A keys per group, E width of a head, S lanes, b groups of a block, R rows of a
strip, n keys that a strip sees. See attention.py for the geometry.
"""

import math

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from trax_hourglass.ops import attention_vjp
from trax_hourglass.ops import dropout as dropout_lib

STRIP = 128
LANES = 128  # Of a register; one number per row is kept in all of them.
_SUBLANES = 8  # Of a register of 32 bits.
LN_2 = math.log(2)  # Scores are in powers of 2, for which TPUs have an instruction.


def forward(layout, table, keys, q_ref, k_ref, v_ref, e_ref, next_e_ref, biases_ref, out_ref, log_total_ref,
            highest_ref, total_ref, sum_ref, content_ref, position_ref, hashes_ref):
  """Computes the output (b, S), and the logarithm of the softmax's denominator (heads, b), of a block of queries.

  Args:
    layout: tpu_layout.Layout.
    table: tpu_layout.Layout.table, int32 (4, tiles).
    keys: dropout keys of all heads, int32 (H, 2), or None.
    q_ref: queries (b, S).
    k_ref, v_ref: keys and values (b, S).
    e_ref, next_e_ref: two neighbouring blocks of distances, (b, S) each, or None.
    biases_ref: context and location bias, float32 (2, S), or None.
    out_ref, log_total_ref: the results.
    highest_ref: largest score so far, in all lanes (heads, b, LANES).
    total_ref: denominator so far, to be added up over lanes (heads, b, LANES).
    sum_ref: weighted sum of values so far, (b, S).
    content_ref, position_ref: scaled queries of both kinds of scores by head, (heads, b, S); position_ref may be None.
    hashes_ref: hashes of the queries' numbers for dropout, uint32 (heads, b, LANES), or None.
  """
  place = _Place(layout, table, keys)

  @pl.when(place.is_first)
  def _():
    highest_ref[...] = jnp.full(highest_ref.shape, attention_vjp.MASKED, jnp.float32)
    total_ref[...] = jnp.zeros(total_ref.shape, jnp.float32)
    sum_ref[...] = jnp.zeros(sum_ref.shape, jnp.float32)
    place.put_scaled(q_ref, biases_ref, content_ref, position_ref)
    place.put_hashes(hashes_ref)

  def of_strip(strip):
    shrinks, added = jnp.zeros((STRIP, layout.lanes), jnp.float32), jnp.zeros((STRIP, layout.lanes), jnp.float32)
    for head in range(layout.block_heads):
      at = head, strip.rows
      scores = strip.scores(at, content_ref, position_ref, k_ref, e_ref, next_e_ref)
      highest = highest_ref[*at, :]
      new_highest = jnp.maximum(highest, scores.max(axis=-1, keepdims=True))
      weights, shrink = jnp.exp2(scores - strip.widened(new_highest)), jnp.exp2(highest - new_highest)
      highest_ref[*at, :] = new_highest
      total_ref[*at, :] = total_ref[*at, :] * shrink + strip.lane_sums(weights)
      kept = strip.kept(at, hashes_ref)
      dropped = weights if kept is None else jnp.where(kept, weights, 0)
      added += _product(dropped.astype(v_ref.dtype), place.own(head, v_ref[:strip.n_keys, :]))
      shrinks = jnp.where(place.lanes_of(head), shrink if layout.lanes == LANES else shrink[:, :1], shrinks)
    sum_ref[strip.rows, :] = sum_ref[strip.rows, :] * shrinks + added

  place.for_strips(of_strip)

  @pl.when(place.is_last)
  def _():
    totals = jnp.zeros(sum_ref.shape, jnp.float32)
    for head in range(layout.block_heads):
      total = total_ref[head].sum(axis=-1, keepdims=True)
      totals = jnp.where(place.lanes_of(head), total, totals)
      log_total_ref[head:head + 1, :] = (highest_ref[head] + jnp.log2(total)).T[:1]
    totals = jnp.where(totals == 0, 1, totals)  # Lanes of no head.
    out_ref[...] = (sum_ref[...] / (totals * (1 - layout.rate))).astype(out_ref.dtype)


def backward(layout, table, keys, q_ref, k_ref, v_ref, e_ref, next_e_ref, biases_ref, d_out_ref, out_ref, log_total_ref,
             dq_ref, dk_ref, dv_ref, de_ref, d_biases_ref, dq_sum, dk_sum, dv_sum, dp_sum, content_ref, position_ref,
             hashes_ref, flipped_ref, d_weighted_ref, log_total_column, inner_ref):
  """Computes the gradients of a block of queries (b, S), and adds to those of all keys, values and distances.

  Args:
    layout, table, keys, q_ref, k_ref, v_ref, e_ref, next_e_ref, biases_ref: as `forward` takes them.
    d_out_ref: gradient of the output (b, S).
    out_ref, log_total_ref: `forward`'s results.
    dq_ref, dk_ref, dv_ref: gradients: (b, S), (A, M padded, S) twice.
    de_ref, d_biases_ref: float32 gradients of distances, (P, A, blocks b, S), and biases, (2, S), or None.
    dq_sum, dk_sum, dv_sum: float32 sums on the way to these.
    dp_sum: the same of the queries of position scores, each strip upside down, (b, S), or None.
    content_ref, position_ref, hashes_ref: as `forward` has them.
    flipped_ref: position_ref with each strip upside down.
    d_weighted_ref: gradient of the weighted sums of values, by head (heads, b, S).
    log_total_column, inner_ref: logarithm of the denominator, and product of output and its gradient, per query:
      (heads, b, LANES).
  """
  place = _Place(layout, table, keys)
  has_positions = de_ref is not None

  @pl.when(place.is_first_of_row)
  def _():
    for total in (dk_sum, dv_sum):
      total[...] = jnp.zeros(total.shape, jnp.float32)

  if has_positions:
    @pl.when(place.is_first_of_head)
    def _():
      for total in (de_ref, d_biases_ref):
        total[...] = jnp.zeros(total.shape, jnp.float32)

  @pl.when(place.is_first)
  def _():
    place.put_scaled(q_ref, biases_ref, content_ref, position_ref)
    place.put_hashes(hashes_ref)
    d_out = d_out_ref[...].astype(jnp.float32)
    products, d_weighted = d_out * out_ref[...].astype(jnp.float32), (d_out / (1 - layout.rate)).astype(k_ref.dtype)
    for head in range(layout.block_heads):
      inner = place.own(head, products).sum(axis=-1, keepdims=True)
      inner_ref[head] = jnp.broadcast_to(inner, (layout.block, LANES))
      log_total_column[head] = jnp.broadcast_to(log_total_ref[head:head + 1, :], (LANES, layout.block)).T
      d_weighted_ref[head] = place.own(head, d_weighted)
    dq_sum[...] = jnp.zeros(dq_sum.shape, jnp.float32)
    if has_positions:
      dp_sum[...] = jnp.zeros(dp_sum.shape, jnp.float32)
      for head in range(layout.block_heads):
        for rows in _strips(layout):
          flipped_ref[head, rows, :] = _upside_down(position_ref[head, rows, :]).astype(flipped_ref.dtype)

  def of_strip(strip):
    n_keys = strip.n_keys
    own_keys = place.keys_of_all(n_keys)
    for head in range(layout.block_heads):
      at = head, strip.rows
      scores = strip.scores(at, content_ref, position_ref, k_ref, e_ref, next_e_ref)
      weights = jnp.exp2(scores - strip.widened(log_total_column[*at, :]))
      d_weighted = d_weighted_ref[*at, :]
      d_weights = _product_of_rows(d_weighted, v_ref[:n_keys, :])
      kept, dropped = strip.kept(at, hashes_ref), weights
      if kept is not None:
        d_weights, dropped = jnp.where(kept, d_weights, 0), jnp.where(kept, weights, 0)
      d_scores = (weights * (d_weights - strip.widened(inner_ref[*at, :]))).astype(k_ref.dtype)
      dv_sum[own_keys] += _product_of_columns(dropped.astype(v_ref.dtype), d_weighted)
      dk_sum[own_keys] += _product_of_columns(d_scores, content_ref[*at, :])
      dq_sum[strip.rows, :] += _product(d_scores, place.own(head, k_ref[:n_keys, :]))
      if has_positions:
        straight = strip.unskewed(d_scores).astype(d_scores.dtype)
        dp_sum[strip.rows, :] += _product(straight, place.own(head, strip.distances(e_ref, next_e_ref)))
        de_ref[strip.distances_of_all] += _product_of_columns(straight, flipped_ref[*at, :])

  place.for_strips(of_strip)

  @pl.when(place.is_last)
  def _():
    dq = dq_sum[...]
    if has_positions:
      dp = jnp.concatenate([_upside_down(dp_sum[rows, :]) for rows in _strips(layout)])
      for number, gradient in enumerate((dq, dp)):
        d_biases_ref[number:number + 1, :] += gradient.sum(axis=0, keepdims=True) * layout.scale
      dq += dp
    dq_ref[...] = (dq * layout.scale).astype(dq_ref.dtype)

  @pl.when(place.is_last_of_row)
  def _():
    dk_ref[...] = (dk_sum[...] * LN_2).astype(dk_ref.dtype)
    dv_ref[...] = dv_sum[...].astype(dv_ref.dtype)


class _Place:
  """Locates one turn: block of heads, row of the batch, tile."""

  def __init__(self, layout, table, keys):
    self.layout, self.head_keys = layout, keys
    self.head_block, self.row, tile = (pl.program_id(axis) for axis in range(3))
    self.query_place, self.query_block, self.key_place, self.key_block = (table[axis, tile] for axis in range(4))
    self._is_diagonal = self.key_block == self.query_block
    self.is_first = (self.key_place == 0) & (self.key_block == layout.first_key_block(self.query_block))
    self.is_last = (self.key_place == layout.keys_per_group - 1) & self._is_diagonal
    self.is_first_of_row, self.is_last_of_row = tile == 0, tile == pl.num_programs(2) - 1
    self.is_first_of_head = self.is_first_of_row & (self.row == 0)

  def for_strips(self, work):
    """Calls `work` (_Strip) for all strips of the tile; on the diagonal they see fewer keys the earlier they are."""
    def tile(diagonal):
      for rows in _strips(self.layout):
        work(_Strip(self, rows, diagonal))

    if self.layout.n_blocks == 1:
      tile(True)
    else:
      pl.when(self._is_diagonal)(lambda: tile(True))
      pl.when(~self._is_diagonal)(lambda: tile(False))

  def keys_of_all(self, n_keys):
    """Locates the tile's first keys among all of a head."""
    return self.key_place, pl.ds(pl.multiple_of(self.key_block * self.layout.block, self.layout.block), n_keys)

  def lanes_of(self, head):
    """Tells the lanes of a head of the block, (1, S)."""
    lanes = jax.lax.broadcasted_iota(jnp.int32, (1, self.layout.lanes), 1)
    return (lanes >= head * self.layout.width) & (lanes < (head + 1) * self.layout.width)

  def own(self, head, x):
    """Zeroes the lanes of other heads, (n, S)."""
    return x if self.layout.block_heads == 1 else jnp.where(self.lanes_of(head), x, 0)

  def put_scaled(self, q_ref, biases_ref, content_ref, position_ref):
    """Writes the queries of content and position scores, divided by sqrt(E), by head."""
    q = q_ref[...].astype(jnp.float32)
    for number, ref in enumerate((content_ref, position_ref)):
      if ref is not None:
        scaled = (q if biases_ref is None else q + biases_ref[number:number + 1, :]) * (self.layout.scale / LN_2)
        for head in range(self.layout.block_heads):
          ref[head] = self.own(head, scaled.astype(ref.dtype))


  def put_hashes(self, hashes_ref):
    """Writes the hashes of the queries' numbers, which are counted through a sequence, then through the batch."""
    if hashes_ref is not None:
      groups = self.query_block * self.layout.block + jax.lax.broadcasted_iota(jnp.int32, (self.layout.block, LANES), 0)
      numbers = self.row * self.layout.n_queries + groups * self.layout.queries_per_group + self.query_place
      for head in range(self.layout.block_heads):
        hashes_ref[head] = dropout_lib.hashed(numbers, self.key_of(head)[0])

  def key_of(self, head):
    """Returns the two words of a head's dropout key."""
    number = self.head_block * self.layout.block_heads + head
    return tuple(self.head_keys[number, word].astype(jnp.uint32) for word in range(2))


class _Strip:
  """R queries of a tile, `rows` of its block, against the n keys that they may see."""

  def __init__(self, place, rows, diagonal):
    self._place, self._layout, self._diagonal, self.rows = place, place.layout, diagonal, rows
    block, first = place.layout.block, rows.start
    self.n_keys = first + STRIP if diagonal else block
    self._first_distance = block - first - STRIP
    behind = (place.key_block - place.query_block + place.layout.blocks_seen - 1) * block
    of_all = pl.ds(pl.multiple_of(behind, block) + self._first_distance, self.n_keys + STRIP)
    self.distances_of_all = place.query_place, place.key_place, of_all
    self._groups = place.query_block * block + first + jax.lax.broadcasted_iota(jnp.int32, (STRIP, 1), 0)
    self._key_groups = place.key_block * block + jax.lax.broadcasted_iota(jnp.int32, (1, self.n_keys), 1)

  def distances(self, e_ref, next_e_ref):
    """Returns the strip's distances out of two blocks of them, (n + R, S)."""
    block, first = self._layout.block, self._first_distance
    last = first + self.n_keys + STRIP
    parts = ([e_ref[first:min(last, block), :]] if first < block else []) + (
        [next_e_ref[max(first - block, 0):last - block, :]] if last > block else [])
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

  def scores(self, at, content_ref, position_ref, k_ref, e_ref, next_e_ref):
    """Returns the scores at a (head, rows), float32 (R, n)."""
    scores = _product_of_rows(content_ref[*at, :], k_ref[:self.n_keys, :])
    if e_ref is not None:
      by_distance = _product_of_rows(position_ref[*at, :], self.distances(e_ref, next_e_ref))
      scores += pltpu.roll(by_distance, self.n_keys, 1, stride=1, stride_axis=0)[:, :self.n_keys]
    visible = [self._key_groups <= self._groups] if self._diagonal else []
    if self._layout.window < self._layout.n_groups:
      visible.append(self._key_groups > self._groups - self._layout.window)
    for seen in visible:
      scores = jnp.where(seen, scores, attention_vjp.MASKED)
    return scores

  def unskewed(self, x):
    """Puts gradients of scores where their distances stand, upside down: (R, n) -> float32 (R, n + R), else zeros."""
    x = jnp.concatenate([_upside_down(x), jnp.zeros((STRIP, STRIP), jnp.float32)], axis=1)
    return pltpu.roll(x, 1, 1, stride=1, stride_axis=0)

  def widened(self, x):
    """Repeats what is in all lanes of a register, (R, LANES), for all keys: (R, n)."""
    return jnp.concatenate([x] * (self.n_keys // LANES), axis=1)

  def lane_sums(self, x):
    """Adds up (R, n) to (R, LANES), each lane for itself."""
    return sum(x[:, first:first + LANES] for first in range(0, self.n_keys, LANES))

  def kept(self, at, hashes_ref):
    """Tells the weights at a (head, rows) that survive dropout, (R, n), as tiling.py does; None without dropout."""
    if hashes_ref is None:
      return None
    columns = self._key_groups * self._layout.keys_per_group + self._place.key_place
    columns = dropout_lib.hashed(columns, self._place.key_of(at[0])[1])
    return dropout_lib.survivors(self.widened(hashes_ref[*at, :]), columns, self._layout.rate)


def _strips(layout):
  return [pl.ds(first, STRIP) for first in range(0, layout.block, STRIP)]


def _upside_down(x):
  """Reverses rows: (R, n) -> float32 (R, n)."""
  x = x.astype(jnp.float32)
  backwards = _SUBLANES - 1 - jax.lax.broadcasted_iota(jnp.int32, (_SUBLANES, x.shape[1]), 0)
  return jnp.concatenate([jnp.take_along_axis(x[first:first + _SUBLANES], backwards, axis=0)
                          for first in range(STRIP - _SUBLANES, -1, -_SUBLANES)])


def _product(a, b):
  """(n, m), (m, S) -> (n, S)."""
  return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _product_of_rows(a, b):
  """(n, S), (m, S) -> (n, m)."""
  return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


def _product_of_columns(a, b):
  """(n, m), (n, S) -> (m, S)."""
  return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
