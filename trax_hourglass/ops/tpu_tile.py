"""Locates a grid step of tpu_attention.py's kernels and computes the scores of its tile in strips.

The position scores of a strip of R queries are one product with the strip's distances. Row r moves R - r lanes to the
left, in registers, by `pltpu.roll` with a stride (the skew of arXiv 1809.04281). The gradient moves the other way,
which would need a negative stride, so the strip's rows are reversed first.

Letters: M groups, P queries per group, A keys per group, E width of a head. S lanes, b groups of a block, R rows of a
strip, n keys that a strip sees. See attention.py for the geometry.
"""

import functools
import math

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from trax_hourglass.ops import attention_vjp
from trax_hourglass.ops import dropout as dropout_lib

STRIP = 128
LANES = 128  # Lanes of a register; a number per row is repeated in all lanes.
LN_2 = math.log(2)  # Scores are exponents of 2, for which TPUs have an instruction.
_SUBLANES = 8  # Sublanes of a register of 32-bit numbers.


class Place:
  """Locates a grid step: block of heads, row of the batch, tile."""

  def __init__(self, layout, table, keys):
    self.layout, self.head_keys = layout, keys
    self.head_block, self.row, tile = (pl.program_id(axis) for axis in range(3))
    self.query_place, self.query_block, self.key_place, self.key_block = (table[axis, tile] for axis in range(4))
    self._is_diagonal = self.key_block == self.query_block
    self._is_last_block = self.query_block == layout.n_blocks - 1
    self.is_first = (self.key_place == 0) & (self.key_block == layout.first_key_block(self.query_block))
    self.is_last = (self.key_place == layout.keys_per_group - 1) & self._is_diagonal
    self.is_first_of_row, self.is_last_of_row = tile == 0, tile == pl.num_programs(2) - 1
    self.is_first_of_head = self.is_first_of_row & (self.row == 0)

  def for_strips(self, work):
    """Calls `work` (Strip) for all strips of the tile; on the diagonal, earlier strips see fewer keys."""
    left = self.layout.n_groups - self.query_block * self.layout.block

    def on_diagonal():
      for first in range(0, self.layout.block, STRIP):
        strip = functools.partial(work, Strip(self, first, first + STRIP, True))
        pl.when(first < left)(strip) if self.layout.is_ragged and first else strip()

    def elsewhere():
      block, together = self.layout.block, self.layout.strips_together * STRIP
      of_last = self.layout.strips_of_last * STRIP
      whole = of_last // together * together

      @pl.loop(0, jnp.where(self._is_last_block, whole, block), step=together)
      def _(first):
        for strip in range(0, together, STRIP):
          work(Strip(self, pl.multiple_of(first, STRIP) + strip, block, False))

      for first in range(whole, of_last, STRIP):
        pl.when(self._is_last_block)(functools.partial(work, Strip(self, first, block, False)))

    if self.layout.n_blocks == 1:
      on_diagonal()
    else:
      pl.when(self._is_diagonal)(on_diagonal)
      pl.when(~self._is_diagonal)(elsewhere)

  def queries_only(self, x):
    """Zeroes rows after the last group, (b, n)."""
    return self._up_to_last(x, self.query_block) if self.layout.is_ragged else x

  def whole(self, ref, scratch):
    """Returns keys or values (b, S) with zeros after the last group."""
    if scratch is None:
      return ref
    scratch[...] = self._up_to_last(ref[...], self.key_block)
    return scratch

  def put_distances(self, e_ref, next_e_ref, e_all):
    """Concatenates the tile's two blocks of distances in `e_all`."""
    if e_all is not None:
      e_all[:self.layout.block, :], e_all[self.layout.block:, :] = e_ref[...], next_e_ref[...]

  def _up_to_last(self, x, block):
    groups = block * self.layout.block + jax.lax.broadcasted_iota(jnp.int32, (self.layout.block, 1), 0)
    return jnp.where(groups < self.layout.n_groups, x, 0)

  def keys_of_all(self, n_keys):
    """Returns the index of the tile's first `n_keys` keys among all keys of a head."""
    return self.key_place, pl.ds(pl.multiple_of(self.key_block * self.layout.block, self.layout.block), n_keys)

  def lanes_of(self, head):
    """Returns the mask of a head's lanes, (1, S)."""
    lanes = jax.lax.broadcasted_iota(jnp.int32, (1, self.layout.lanes), 1)
    return (lanes >= head * self.layout.width) & (lanes < (head + 1) * self.layout.width)

  def own(self, head, x):
    """Zeroes the lanes of other heads, (n, S)."""
    return x if self.layout.block_heads == 1 else jnp.where(self.lanes_of(head), x, 0)

  def put_scaled(self, q_ref, biases_ref, content_ref, position_ref):
    """Writes the queries of content and position scores by head, divided by sqrt(E) ln 2."""
    q = self.queries_only(q_ref[...].astype(jnp.float32))
    for number, ref in enumerate((content_ref, position_ref)):
      if ref is not None:
        scaled = (q if biases_ref is None else q + biases_ref[number:number + 1, :]) * (self.layout.scale / LN_2)
        for head in range(self.layout.block_heads):
          ref[head] = self.own(head, scaled.astype(ref.dtype))


  def put_hashes(self, hashes_ref):
    """Writes the hashes of the queries' numbers, which run along a sequence, then along the batch."""
    if hashes_ref is not None:
      groups = self.query_block * self.layout.block + jax.lax.broadcasted_iota(jnp.int32, (self.layout.block, LANES), 0)
      numbers = self.row * self.layout.n_queries + groups * self.layout.queries_per_group + self.query_place
      for head in range(self.layout.block_heads):
        hashes_ref[head] = dropout_lib.hashed(numbers, self.key_of(head)[0])

  def key_of(self, head):
    """Returns the two words of a head's dropout key."""
    number = self.head_block * self.layout.block_heads + head
    return tuple(self.head_keys[number, word].astype(jnp.uint32) for word in range(2))


class Strip:
  """Computes R queries of a tile, from row `first` of its block, against the n keys that these queries may see."""

  def __init__(self, place, first, n_keys, diagonal):
    self._place, self._layout, self._diagonal, self.n_keys = place, place.layout, diagonal, n_keys
    block = place.layout.block
    self.rows = pl.ds(first, STRIP)
    first_distance = block - first - STRIP
    self.distances = pl.ds(_aligned(first_distance), n_keys + STRIP)
    behind = (place.key_block - place.query_block + place.layout.blocks_seen - 1) * block
    of_all = pl.ds(_aligned(behind + first_distance), n_keys + STRIP)
    self.distances_of_all = place.query_place, place.key_place, of_all
    self._groups = place.query_block * block + first + jax.lax.broadcasted_iota(jnp.int32, (STRIP, 1), 0)
    self._key_groups = place.key_block * block + jax.lax.broadcasted_iota(jnp.int32, (1, n_keys), 1)

  def scores(self, at, content_ref, position_ref, k_ref, e_all):
    """Returns the scores of `at`, (head, rows), as float32 (R, n)."""
    scores = product_of_rows(content_ref[*at, :], k_ref[:self.n_keys, :])
    if e_all is not None:
      by_distance = product_of_rows(position_ref[*at, :], e_all[self.distances, :])
      scores += pltpu.roll(by_distance, self.n_keys, 1, stride=1, stride_axis=0)[:, :self.n_keys]
    visible = [self._key_groups <= self._groups] if self._diagonal else []
    if self._layout.window < self._layout.n_groups:
      visible.append(self._key_groups > self._groups - self._layout.window)
    for seen in visible:
      scores = jnp.where(seen, scores, attention_vjp.MASKED)
    return scores

  def unskewed(self, x):
    """Moves gradients of scores to their distances, rows reversed: (R, n) -> float32 (R, n + R), zeros elsewhere."""
    x = jnp.concatenate([upside_down(x), jnp.zeros((STRIP, STRIP), jnp.float32)], axis=1)
    return pltpu.roll(x, 1, 1, stride=1, stride_axis=0)

  def widened(self, x):
    """Repeats a number per row, (R, LANES) with equal lanes, for all keys: (R, n)."""
    return jnp.concatenate([x] * (self.n_keys // LANES), axis=1)

  def lane_sums(self, x):
    """Sums (R, n) to (R, LANES), each lane separately."""
    return sum(x[:, first:first + LANES] for first in range(0, self.n_keys, LANES))

  def kept(self, at, hashes_ref):
    """Returns the mask (R, n) of weights of `at` that survive dropout, as in tiling.py; None without dropout."""
    if hashes_ref is None:
      return None
    columns = self._key_groups * self._layout.keys_per_group + self._place.key_place
    columns = dropout_lib.hashed(columns, self._place.key_of(at[0])[1])
    return dropout_lib.survivors(self.widened(hashes_ref[*at, :]), columns, self._layout.rate)


def _aligned(row):
  return row if isinstance(row, int) else pl.multiple_of(row, STRIP)


def strips(layout):
  return [pl.ds(first, STRIP) for first in range(0, layout.block, STRIP)]


def upside_down(x):
  """Reverses the rows: (R, n) -> float32 (R, n)."""
  x = x.astype(jnp.float32)
  backwards = _SUBLANES - 1 - jax.lax.broadcasted_iota(jnp.int32, (_SUBLANES, x.shape[1]), 0)
  return jnp.concatenate([jnp.take_along_axis(x[first:first + _SUBLANES], backwards, axis=0)
                          for first in range(STRIP - _SUBLANES, -1, -_SUBLANES)])


def product_of_rows(a, b):
  """Computes all products of rows: (n, S), (m, S) -> (n, m)."""
  return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
