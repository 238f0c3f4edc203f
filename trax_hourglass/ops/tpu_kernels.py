"""Holds the bodies of tpu_attention.py's kernels, which compute one tile of scores per grid step.

A grid step computes one tile, of one block of heads, in one row of the batch. A tile is b queries of one place in their
groups against b keys of one place. So its rows and columns are groups: a query of group m sees keys of groups <= m. The
lanes of an array hold the widths of a block's heads, side by side. One head is selected by zeroing the lanes of the
others, since a product takes all lanes in any case.

Letters: M groups, P queries per group, A keys per group, E width of a head. S lanes, b groups of a block, R rows of a
strip, n keys that a strip sees. See attention.py for the geometry.
"""

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from trax_hourglass.ops import attention_vjp
from trax_hourglass.ops import tpu_tile


def forward(layout, table, keys, q_ref, k_ref, v_ref, e_ref, next_e_ref, biases_ref, out_ref, log_total_ref,
            e_all, k_whole, v_whole, content_ref, position_ref, hashes_ref, highest_ref, total_ref, sum_ref):
  """Computes the output (b, S) and the base-2 logarithm of the softmax's denominator (heads, b) of a block of queries.

  Args:
    layout: tpu_layout.Layout.
    table: tpu_layout.Layout.table, int32 (4, tiles).
    keys: dropout keys of all heads, int32 (H, 2), or None.
    q_ref: queries (b, S).
    k_ref, v_ref: keys and values (b, S).
    e_ref, next_e_ref: two neighbouring blocks of distances, (b, S) each, or None.
    biases_ref: context and location bias, float32 (2, S), or None.
    out_ref, log_total_ref: the results.
    e_all: scratch for both blocks of distances, (2 b, S), or None.
    k_whole, v_whole: scratch for k_ref and v_ref with zeros after the last group, or None if groups fill all blocks.
    content_ref, position_ref: scratch for scaled queries of both kinds of scores by head, (heads, b, S); position_ref
      may be None.
    hashes_ref: scratch for hashes of the queries' numbers for dropout, uint32 (heads, b, LANES), or None.
    highest_ref: largest score so far, in all lanes (heads, b, LANES).
    total_ref: denominator so far, as partial sums per lane (heads, b, LANES).
    sum_ref: weighted sum of values so far, (b, S).
  """
  place = tpu_tile.Place(layout, table, keys)

  @pl.when(place.is_first)
  def _():
    highest_ref[...] = jnp.full(highest_ref.shape, attention_vjp.MASKED, jnp.float32)
    total_ref[...] = jnp.zeros(total_ref.shape, jnp.float32)
    sum_ref[...] = jnp.zeros(sum_ref.shape, jnp.float32)
    place.put_scaled(q_ref, biases_ref, content_ref, position_ref)
    place.put_hashes(hashes_ref)

  k_ref, v_ref = place.whole(k_ref, k_whole), place.whole(v_ref, v_whole)
  place.put_distances(e_ref, next_e_ref, e_all)

  def of_strip(strip):
    shrinks = added = jnp.zeros((tpu_tile.STRIP, layout.lanes), jnp.float32)
    for head in range(layout.block_heads):
      at = head, strip.rows
      scores = strip.scores(at, content_ref, position_ref, k_ref, e_all)
      highest = highest_ref[*at, :]
      new_highest = jnp.maximum(highest, scores.max(axis=-1, keepdims=True))
      weights, shrink = jnp.exp2(scores - strip.widened(new_highest)), jnp.exp2(highest - new_highest)
      highest_ref[*at, :] = new_highest
      total_ref[*at, :] = total_ref[*at, :] * shrink + strip.lane_sums(weights)
      kept = strip.kept(at, hashes_ref)
      dropped = weights if kept is None else jnp.where(kept, weights, 0)
      added += _product(dropped.astype(v_ref.dtype), place.own(head, v_ref[:strip.n_keys, :]))
      shrinks = jnp.where(place.lanes_of(head), shrink if layout.lanes == tpu_tile.LANES else shrink[:, :1], shrinks)
    sum_ref[strip.rows, :] = sum_ref[strip.rows, :] * shrinks + added

  place.for_strips(of_strip)

  @pl.when(place.is_last)
  def _():
    totals = jnp.zeros(sum_ref.shape, jnp.float32)
    for head in range(layout.block_heads):
      total = total_ref[head].sum(axis=-1, keepdims=True)
      totals = jnp.where(place.lanes_of(head), total, totals)
      log_total_ref[head:head + 1, :] = (highest_ref[head] + jnp.log2(total)).T[:1]
    totals = jnp.where(totals == 0, 1, totals)  # Lanes that belong to no head.
    out_ref[...] = (sum_ref[...] / (totals * (1 - layout.rate))).astype(out_ref.dtype)


def backward(layout, table, keys, q_ref, k_ref, v_ref, e_ref, next_e_ref, biases_ref, d_out_ref, out_ref,
             log_total_ref, dq_ref, dk_ref, dv_ref, de_ref, d_biases_ref, e_all, k_whole, v_whole, content_ref,
             position_ref, hashes_ref, flipped_ref, d_weighted_ref, log_total_column, inner_ref, dq_sum, dk_sum, dv_sum,
             dp_sum):
  """Computes the gradients of a block of queries (b, S), and accumulates those of all keys, values and distances.

  Args:
    layout, table, keys, q_ref, k_ref, v_ref, e_ref, next_e_ref, biases_ref: as for `forward`.
    d_out_ref: gradient of the output (b, S).
    out_ref, log_total_ref: `forward`'s results.
    dq_ref, dk_ref, dv_ref: gradients (b, S), (A, M, S) and (A, M, S).
    de_ref, d_biases_ref: float32 gradients of distances, (P, A, blocks b, S), and biases, (2, S), or None.
    e_all, k_whole, v_whole, content_ref, position_ref, hashes_ref: as for `forward`.
    flipped_ref: position_ref with the rows of each strip reversed.
    d_weighted_ref: gradient of the weighted sums of values, by head (heads, b, S).
    log_total_column, inner_ref: logarithm of the denominator, and product of output and its gradient, per query:
      (heads, b, LANES).
    dq_sum, dk_sum, dv_sum: float32 accumulators of dq_ref, dk_ref and dv_ref.
    dp_sum: float32 accumulator for the queries of position scores, the rows of each strip reversed, (b, S), or None.
  """
  place = tpu_tile.Place(layout, table, keys)
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
    d_out, out = (place.queries_only(ref[...].astype(jnp.float32)) for ref in (d_out_ref, out_ref))
    products, d_weighted = d_out * out, (d_out / (1 - layout.rate)).astype(d_out_ref.dtype)
    for head in range(layout.block_heads):
      inner = place.own(head, products).sum(axis=-1, keepdims=True)
      inner_ref[head] = jnp.broadcast_to(inner, (layout.block, tpu_tile.LANES))
      log_total = jnp.broadcast_to(log_total_ref[head:head + 1, :], (tpu_tile.LANES, layout.block)).T
      log_total_column[head] = place.queries_only(log_total)
      d_weighted_ref[head] = place.own(head, d_weighted)
    dq_sum[...] = jnp.zeros(dq_sum.shape, jnp.float32)
    if has_positions:
      dp_sum[...] = jnp.zeros(dp_sum.shape, jnp.float32)
      for head in range(layout.block_heads):
        for rows in tpu_tile.strips(layout):
          flipped_ref[head, rows, :] = tpu_tile.upside_down(position_ref[head, rows, :]).astype(flipped_ref.dtype)

  k_ref, v_ref = place.whole(k_ref, k_whole), place.whole(v_ref, v_whole)
  place.put_distances(e_ref, next_e_ref, e_all)

  def of_strip(strip):
    n_keys = strip.n_keys
    own_keys = place.keys_of_all(n_keys)
    for head in range(layout.block_heads):
      at = head, strip.rows
      scores = strip.scores(at, content_ref, position_ref, k_ref, e_all)
      weights = jnp.exp2(scores - strip.widened(log_total_column[*at, :]))
      d_weighted = d_weighted_ref[*at, :]
      d_weights = tpu_tile.product_of_rows(d_weighted, v_ref[:n_keys, :])
      kept, dropped = strip.kept(at, hashes_ref), weights
      if kept is not None:
        d_weights, dropped = jnp.where(kept, d_weights, 0), jnp.where(kept, weights, 0)
      d_scores = (weights * (d_weights - strip.widened(inner_ref[*at, :]))).astype(k_ref.dtype)
      dv_sum[own_keys] += _product_of_columns(dropped.astype(v_ref.dtype), d_weighted)
      dk_sum[own_keys] += _product_of_columns(d_scores, content_ref[*at, :])
      dq_sum[strip.rows, :] += _product(d_scores, place.own(head, k_ref[:n_keys, :]))
      if has_positions:
        straight = strip.unskewed(d_scores).astype(d_scores.dtype)
        dp_sum[strip.rows, :] += _product(straight, place.own(head, e_all[strip.distances, :]))
        de_ref[strip.distances_of_all] += _product_of_columns(straight, flipped_ref[*at, :])

  place.for_strips(of_strip)

  @pl.when(place.is_last)
  def _():
    dq = dq_sum[...]
    if has_positions:
      dp = jnp.concatenate([tpu_tile.upside_down(dp_sum[rows, :]) for rows in tpu_tile.strips(layout)])
      for number, gradient in enumerate((dq, dp)):
        d_biases_ref[number:number + 1, :] += gradient.sum(axis=0, keepdims=True) * layout.scale
      dq += dp
    dq_ref[...] = (dq * layout.scale).astype(dq_ref.dtype)

  @pl.when(place.is_last_of_row)
  def _():
    dk_ref[...] = (dk_sum[:, :layout.n_groups] * tpu_tile.LN_2).astype(dk_ref.dtype)
    dv_ref[...] = dv_sum[:, :layout.n_groups].astype(dv_ref.dtype)


def _product(a, b):
  """Multiplies matrices: (n, m), (m, S) -> (n, S)."""
  return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _product_of_columns(a, b):
  """Multiplies the transpose of `a` by `b`: (n, m), (n, S) -> (m, S)."""
  return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
