"""Lays out arrays for tpu_attention.py's kernels: blocks, lanes, tiles, and the part of each array for a grid step.

Letters: B batch, H heads, E width of a head. M groups, P queries per group, A keys per group, W groups that a query
sees; N blocks of b groups, S lanes of a block of heads. See attention.py for the geometry.
"""

import dataclasses

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
import numpy as np

from trax_hourglass.ops import tpu_tile

_BLOCKS = 128, 256, 384, 512  # Groups of a block; multiples of a strip.


@dataclasses.dataclass(frozen=True)
class Layout:
  """Holds the static sizes of the kernels, and the dropout rate.

  Attributes:
    n_groups: M.
    queries_per_group: P.
    keys_per_group: A.
    window: W; M, or less if a query does not see all groups before its own.
    block: b.
    n_blocks: N.
    n_heads: H.
    width: E, padded so that whole heads fill S lanes.
    scale: factor of the scores, 1 / sqrt(E) of the unpadded E.
    rate: dropout rate.
  """
  n_groups: int
  queries_per_group: int
  keys_per_group: int
  window: int
  block: int
  n_blocks: int
  n_heads: int
  width: int
  scale: float
  rate: float

  @classmethod
  def of(cls, q, k, e, queries_per_group, rate):
    """Returns the Layout with the fewest bundles; arrays are (B, Q, H, E), (B, K, H, E) and (P, W A, H, E) or None."""
    n_groups, (n_heads, width) = q.shape[1] // queries_per_group, q.shape[2:]
    keys_per_group = k.shape[1] // n_groups
    window = n_groups if e is None else min(n_groups, e.shape[1] // keys_per_group)
    lanes = tpu_tile.LANES
    padded_width = next((w for w in range(width, lanes) if lanes % w == 0), -(-width // lanes) * lanes)
    layouts = [cls(n_groups, queries_per_group, keys_per_group, window, block, -(-n_groups // block), n_heads,
                   padded_width, float(width)**-0.5, rate) for block in _BLOCKS]
    return min(layouts, key=lambda layout: sum(layout.bundles))

  @property
  def bundles(self):
    """Estimates the kernels' instruction bundles per block of heads and row of the batch.

    A v5e issues one bundle per cycle. The coefficients are fitted to compiled kernels by `benchmarks/tpu_kernels.py`;
    that of masking, for lengths of partly filled blocks, to one kernel of 2,049 positions.

    Returns:
      (bundles of the forward kernel, bundles of the backward kernel).
    """
    turns, lengths = 0, []
    for number in range(self.n_blocks):
      strips = self.strips_of_last if number == self.n_blocks - 1 else self.block // tpu_tile.STRIP
      before = min(number, self.blocks_seen - 1)
      turns += before + 1
      lengths += [self.block] * strips * before + [tpu_tile.STRIP * (strip + 1) for strip in range(strips)]
    masking = 0.4 * self.block if self.is_ragged else 0
    forward = turns * (200 + 0.4 * self.block + masking) + 3.3 * self.padded + sum(420 + 1.9 * n for n in lengths)
    backward = turns * (370 + 0.55 * self.block + masking) + 5.0 * self.padded + sum(740 + 3.85 * n for n in lengths)
    places = self.queries_per_group * self.keys_per_group
    return round(forward * places), round(backward * places + 0.5 * self.padded * self.keys_per_group)

  @property
  def strips_together(self):
    """Returns the number of strips per iteration of a tile's loop; two strips overlap their latencies."""
    strips = self.block // tpu_tile.STRIP
    return strips if strips % 2 else 2

  @property
  def strips_of_last(self):
    """Returns the number of strips of the last block that hold groups."""
    return -(-(self.n_groups - (self.n_blocks - 1) * self.block) // tpu_tile.STRIP)

  @property
  def n_queries(self):
    return self.n_groups * self.queries_per_group

  @property
  def padded(self):
    """Returns the number of groups in all blocks, including the last block's padding."""
    return self.n_blocks * self.block

  @property
  def is_ragged(self):
    """Returns whether the last block is partly filled; kernels must then mask what they read after the last group."""
    return self.padded != self.n_groups

  @property
  def lanes(self):
    """Returns S, the number of lanes of a block of heads."""
    return max(tpu_tile.LANES, self.width)

  @property
  def block_heads(self):
    """Returns the number of heads of a block."""
    return min(self.lanes // self.width, self.n_heads)

  @property
  def head_blocks(self):
    """Returns the number of blocks of heads, of which the last may be padded."""
    return -(-self.n_heads // (self.lanes // self.width))

  @property
  def all_lanes(self):
    """Returns the number of lanes of all blocks of heads."""
    return self.head_blocks * self.lanes

  @property
  def blocks_seen(self):
    """Returns the largest number of blocks of keys that a block of queries sees."""
    return min(self.n_blocks, (self.window + self.block - 2) // self.block + 1)

  def first_key_block(self, query_block):
    """Returns the first block of keys that a block of queries sees."""
    first = query_block - (self.blocks_seen - 1)
    return jnp.maximum(first, 0) if isinstance(first, jax.Array) else max(first, 0)

  @property
  def table(self):
    """Returns a head's tiles, int32 (4, tiles): place and block of queries, then of keys.

    Tiles of one block of queries are consecutive.
    """
    tiles = [(query_place, query_block, key_place, key_block)
             for query_place in range(self.queries_per_group) for query_block in range(self.n_blocks)
             for key_place in range(self.keys_per_group)
             for key_block in range(self.first_key_block(query_block), query_block + 1)]
    return np.array(tiles, np.int32).T

  def folded_shape(self, x, per_group):
    """Returns the shape of `fold`'s result."""
    return x.shape[0], self.n_groups, per_group * self.all_lanes

  def fold(self, x, per_group):
    """Reshapes groups to rows: (B, M per_group, H, E) -> (B, M, per_group all_lanes)."""
    x = _padded(x, self.n_heads, self.width, self.all_lanes)
    return x.reshape(x.shape[0], self.n_groups, -1)

  def unfold(self, x, like):
    """Inverts `fold`."""
    x = x.reshape(*like.shape[:2], self.all_lanes)
    return x[..., :self.n_heads * self.width].reshape(*like.shape[:3], self.width)[..., :like.shape[3]]

  @property
  def _distances_before(self):
    """Returns the padding before the distances, which places the last distance, 0, at the start of the last block."""
    return self.blocks_seen * self.block - (self.window - 1)

  def fold_distances(self, e):
    """Pads distances to whole blocks: (P, W A, H, E) -> (P, blocks b, A all_lanes)."""
    e = _padded(e[:, e.shape[1] - self.window * self.keys_per_group:], self.n_heads, self.width, self.all_lanes)
    e = e.reshape(e.shape[0], self.window, -1)
    return jnp.pad(e, ((0, 0), (self._distances_before, self.block - 1), (0, 0)))

  def unfold_distances(self, e, like):
    """Inverts `fold_distances` for gradients: (P, A, blocks b, all_lanes) -> shape of `like`."""
    e = e[:, :, self._distances_before:self._distances_before + self.window, :self.n_heads * self.width]
    e = jnp.moveaxis(e, 1, 2).reshape(like.shape[0], -1, self.n_heads, self.width)[..., :like.shape[3]]
    return jnp.pad(e, ((0, 0), (like.shape[1] - e.shape[1], 0), (0, 0), (0, 0)))

  def fold_biases(self, *biases):
    """Stacks the two biases (H, E): float32 (2, all_lanes)."""
    return _padded(jnp.stack(biases).astype(jnp.float32)[:, None], self.n_heads, self.width, self.all_lanes)[:, 0]

  def unfold_biases(self, d_biases, like):
    """Returns the gradients of both biases: (2, all_lanes) -> (2, H, E)."""
    return d_biases[:, :self.n_heads * self.width].reshape(2, self.n_heads, self.width)[..., :like.shape[1]]

  def vmem_bytes(self, dtype):
    """Returns the backward kernel's bytes of VMEM, including two buffers for each argument and result."""
    size, words = jnp.dtype(dtype).itemsize, self.block * self.lanes
    keys = 2 * self.keys_per_group * self.padded * self.lanes * (4 + 2 * size)
    distances = 2 * 4 * self.queries_per_group * self.keys_per_group * (self.blocks_seen + 1) * words
    per_head = self.block_heads * (4 * words * size + 3 * 4 * self.block * tpu_tile.LANES)
    return keys + distances + per_head + 2 * 4 * words + (2 * 9 + 4) * words * size

  # Scratch that kernels keep in VMEM between grid steps.
  @property
  def rows(self):
    return jax.ShapeDtypeStruct((self.block, self.lanes), jnp.float32)

  @property
  def columns(self):
    return jax.ShapeDtypeStruct((self.block_heads, self.block, tpu_tile.LANES), jnp.float32)

  @property
  def sum_of_keys(self):
    return jax.ShapeDtypeStruct((self.keys_per_group, self.padded, self.lanes), jnp.float32)

  def by_head(self, dtype):
    return jax.ShapeDtypeStruct((self.block_heads, self.block, self.lanes), dtype)

  def between_turns(self, dtype, has_positions):
    """Returns both kernels' scratch, None where unused: distances, keys, values, two kinds of queries, hashes."""
    distances = jax.ShapeDtypeStruct((2 * self.block, self.lanes), dtype)
    keys = jax.ShapeDtypeStruct((self.block, self.lanes), dtype) if self.is_ragged else None
    hashes = jax.ShapeDtypeStruct(self.columns.shape, jnp.uint32) if self.rate else None
    queries = self.by_head(dtype)
    return [distances if has_positions else None, keys, keys, queries, queries if has_positions else None, hashes]

  # The part of each array that a grid step (block of heads, row of the batch, tile) sees.
  @property
  def queries(self):
    def index(h, b, t, table, *_):
      return b, table[1, t], table[0, t] * self.head_blocks + h
    return pl.BlockSpec((None, self.block, self.lanes), index)

  @property
  def keys(self):
    def index(h, b, t, table, *_):
      return b, table[3, t], table[2, t] * self.head_blocks + h
    return pl.BlockSpec((None, self.block, self.lanes), index)

  def distances(self, behind):
    """Returns the first of a tile's two blocks of distances (`behind` 0), or the second (1)."""
    def index(h, b, t, table, *_):
      return table[0, t], table[3, t] - table[1, t] + self.blocks_seen - 1 + behind, table[2, t] * self.head_blocks + h
    return pl.BlockSpec((None, self.block, self.lanes), index)

  @property
  def numbers(self):
    def index(h, b, t, table, *_):
      return b, h, table[0, t], 0, table[1, t]
    return pl.BlockSpec((None, None, None, self.block_heads, self.block), index)

  @property
  def biases(self):
    return pl.BlockSpec((2, self.lanes), lambda h, *_: (0, h))

  @property
  def all_keys(self):
    return pl.BlockSpec((self.keys_per_group, None, self.n_groups, self.lanes), lambda h, b, *_: (0, b, 0, h))

  @property
  def all_distances(self):
    shape = self.queries_per_group, self.keys_per_group, (self.blocks_seen + 1) * self.block, self.lanes
    return pl.BlockSpec(shape, lambda h, *_: (0, 0, 0, h))


def _padded(x, n_heads, width, lanes):
  """Pads each head to `width` and the result to `lanes`: (B, L, H, E) -> (B, L, lanes)."""
  x = jnp.pad(x, ((0, 0),) * 3 + ((0, width - x.shape[-1]),)).reshape(*x.shape[:2], n_heads * width)
  return jnp.pad(x, ((0, 0), (0, 0), (0, lanes - x.shape[-1])))


