"""The bodies of pallas_attention.py's kernels: what one program does with its tiles of scores.

A program is for one row of the batch and one head. References (G, E) are of its tile, (Q, E) of all queries padded to
whole tiles, (K, E) of all keys likewise; position scores are a flat (Q K,), unpadded. References that are None are of
attentions without positions, or without dropout.

Letters: M groups, P queries per group, A keys per group, Q = M P queries, K = M A keys or distances, E width of a head;
a tile is of G queries and C keys.
"""

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
import jax.numpy as jnp

from trax_hourglass.ops import attention_vjp
from trax_hourglass.ops import dropout as dropout_lib


def forward(tiling, q_ref, k_ref, v_ref, scores_ref, key_ref, out_ref, log_total_ref):
  """Output (G, E), and the logarithm of the softmax's denominator (G,), of a tile's queries."""
  row, number = pl.program_id(0), pl.program_id(2)
  q = q_ref[...]

  def tile(span, carry):
    highest, total, out = carry
    place = _Place(tiling, row, number, span)
    scores = place.scores(q, k_ref[place.of_keys, :], scores_ref)
    new_highest = jnp.maximum(highest, scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - new_highest)
    shrink = jnp.exp(highest - new_highest)
    dropped = place.drop(weights, key_ref)
    v = v_ref[place.of_keys, :]
    out = out * shrink + _product(dropped.astype(v.dtype), v)
    return new_highest, total * shrink + weights.sum(axis=-1, keepdims=True), out

  one = jnp.zeros((q.shape[0], 1), jnp.float32)
  start = one + attention_vjp.MASKED, one, jnp.zeros(q.shape, jnp.float32)
  highest, total, out = jax.lax.fori_loop(0, _spans_of(tiling, number), tile, start)
  out_ref[...] = (out / (total * (1 - tiling.rate))).astype(out_ref.dtype)
  log_total_ref[...] = (highest + jnp.log(total))[:, 0]


def query_gradients(tiling, q_ref, d_out_ref, log_total_ref, inner_ref, k_ref, v_ref, scores_ref, key_ref, *results):
  """Gradients (G, E) of a tile's queries, and, with positions, of their rows of position scores.

  Position scores' gradients go where the scores stand; `results` then begin with that same memory as an input.
  """
  dq_ref, d_scores_ref = (results[0], None) if scores_ref is None else results[1:]
  row, number = pl.program_id(0), pl.program_id(2)
  q, d_out, log_total, inner = q_ref[...], d_out_ref[...], log_total_ref[...][:, None], inner_ref[...][:, None]

  def tile(span, dq):
    place = _Place(tiling, row, number, span)
    k = k_ref[place.of_keys, :]
    weights = jnp.exp(place.scores(q, k, scores_ref) - log_total)
    d_weights = place.drop(_product(d_out, v_ref[place.of_keys, :].T), key_ref)
    d_scores = (weights * (d_weights - inner)).astype(k.dtype)
    if d_scores_ref is not None:
      plgpu.store(d_scores_ref.at[place.addresses], d_scores, mask=place.exists)
    return dq + _product(d_scores, k)

  dq = jax.lax.fori_loop(0, _spans_of(tiling, number), tile, jnp.zeros(q.shape, jnp.float32))
  dq_ref[...] = dq.astype(dq_ref.dtype)


def key_gradients(tiling, q_ref, d_out_ref, log_total_ref, inner_ref, k_ref, v_ref, scores_ref, key_ref, dk_ref,
                  dv_ref):
  """Gradients (C, E) of a tile's keys and of its values."""
  row, span = pl.program_id(0), pl.program_id(2)
  k, v = k_ref[...], v_ref[...]

  def tile(number, carry):
    dk, dv = carry
    place = _Place(tiling, row, number, span)
    q, d_out = q_ref[place.of_queries, :], d_out_ref[place.of_queries, :]
    weights = jnp.exp(place.scores(q, k, scores_ref) - log_total_ref[place.of_queries][:, None])
    d_weights = place.drop(_product(d_out, v.T), key_ref)
    d_scores = weights * (d_weights - inner_ref[place.of_queries][:, None])
    dropped = place.drop(weights, key_ref)
    return dk + _product(d_scores.astype(q.dtype).T, q), dv + _product(dropped.astype(q.dtype).T, d_out)

  zeros = jnp.zeros(k.shape, jnp.float32)
  dk, dv = jax.lax.fori_loop(_first_tile(tiling, span), tiling.n_query_tiles, tile, (zeros, zeros))
  dk_ref[...] = dk.astype(dk_ref.dtype)
  dv_ref[...] = dv.astype(dv_ref.dtype)


class _Place:
  """One tile: query tile `number` against key tile `span`, in a row of the batch."""

  def __init__(self, tiling, row, number, span):
    self._tiling = tiling
    self._row = row
    self.of_queries = pl.ds(number * tiling.tile_queries, tiling.tile_queries)
    self.of_keys = pl.ds(span * tiling.tile_keys, tiling.tile_keys)
    self._queries = number * tiling.tile_queries + jnp.arange(tiling.tile_queries)[:, None]
    self._columns = span * tiling.tile_keys + jnp.arange(tiling.tile_keys)[None, :]
    self._groups = _divided(self._queries, tiling.queries_per_group)
    self._visible = self._columns < (self._groups + 1) * tiling.keys_per_group

  @property
  def exists(self):
    """Which elements are scores: of no query of the padding, and of no key in the future."""
    return self._visible & (self._queries < self._tiling.n_queries)

  @property
  def addresses(self):
    """Where in the flat position scores of all queries and distances those of the tile stand, (G, C).

    What does not exist stands behind the end: rows overlap, and an interpreted store of one lane that is masked puts
    back what another lane has just replaced.
    """
    tiling = self._tiling
    distances = self._columns + tiling.keys_per_group * (tiling.n_groups - 1 - self._groups)
    return jnp.where(self.exists, self._queries * tiling.n_keys + distances, tiling.n_queries * tiling.n_keys)

  def scores(self, q, k, scores_ref):
    """Scores (G, C), float32, of queries (G, E) and keys (C, E)."""
    scores = _product(q, k.T)
    if scores_ref is not None:
      scores += plgpu.load(scores_ref.at[self.addresses], mask=self.exists, other=0.0).astype(jnp.float32)
    return jnp.where(self._visible, scores, attention_vjp.MASKED)

  def drop(self, x, key_ref):
    """Zeroes what dropout takes away; nothing is divided. Masks are those of tiled_attention.py."""
    if key_ref is None:
      return x
    rows = self._row * self._tiling.n_queries + self._queries
    key = key_ref[0], key_ref[1]
    return jnp.where(dropout_lib.keep_mask(key, rows, self._columns, self._tiling.rate), x, 0.0)


def _spans_of(tiling, number):
  """How many key tiles the queries of a tile see."""
  last = _divided((number + 1) * tiling.tile_queries - 1, tiling.queries_per_group)
  keys = (last + 1) * tiling.keys_per_group
  return jnp.minimum(_divided(keys + tiling.tile_keys - 1, tiling.tile_keys), tiling.n_key_tiles)


def _first_tile(tiling, span):
  """The first query tile that sees a key tile."""
  first = _divided(span * tiling.tile_keys, tiling.keys_per_group) * tiling.queries_per_group
  return _divided(first, tiling.tile_queries)


def _divided(x, n):
  """Whole quotients of numbers not below 0, which spares a kernel the cases of signs."""
  return x if n == 1 else jax.lax.div(x, jnp.asarray(n, x.dtype))


def _product(a, b):
  return jnp.dot(a, b, preferred_element_type=jnp.float32)
