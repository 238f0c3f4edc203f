"""Lists the tiles of tiled_attention.py and cuts each tile's queries, keys, distances and masks.

All arrays keep the layout of attention's arguments, padded to whole blocks and spans. A tile's part is sliced where it
is needed, which copies the part once and avoids the transpose of whole arrays.

Letters: B batch, H heads, E width of a head. P queries per group, A keys per group; M groups, Q = M P queries, K = M A
keys or distances. N blocks of G groups, and C keys in a span; h heads and b rows of the batch at once.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from trax_hourglass.ops import dropout as dropout_lib


@dataclasses.dataclass(frozen=True)
class Tiling:
  """Describes how a sequence is cut, with static lengths.

  Attributes:
    queries_per_group: P.
    keys_per_group: A.
    n_groups: M.
    n_blocks: N.
    block_groups: G; the N G groups are M groups and padding.
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
  def of(cls, n_queries, n_keys, queries_per_group, block_queries, span_keys):
    """Cuts evenly: 600 groups make two blocks of 300, not one of 512 and one mostly padding.

    Args:
      n_queries: Q.
      n_keys: K.
      queries_per_group: P.
      block_queries: limit on the queries in a block, or on its keys if these are more.
      span_keys: limit on the keys in a span, unless a group has more.
    """
    n_groups = n_queries // queries_per_group
    keys_per_group = n_keys // n_groups
    n_blocks = -(-n_groups * max(queries_per_group, keys_per_group) // block_queries)
    n_blocks = min(n_blocks, n_groups)
    block_groups = -(-n_groups // n_blocks)
    n_keys = n_blocks * block_groups * keys_per_group
    n_spans = min(-(-n_keys // span_keys), n_keys // keys_per_group)  # A span has room for a group.
    return cls(queries_per_group, keys_per_group, n_groups, n_blocks, block_groups, n_spans, -(-n_keys // n_spans))

  @property
  def block_keys(self):
    """Returns the number of keys of a block's groups."""
    return self.block_groups * self.keys_per_group

  @property
  def tile_distances(self):
    """Returns the number of distances of a tile, one group more than occur: the skew cuts A from each row.

    A single tile lies on the diagonal, where half of the distances are to the future and need no scores. In their place
    the skew reads scores of another query, which are then masked.
    """
    return self.span_keys + (self.keys_per_group if self.n_blocks == self.n_spans == 1 else self.block_keys)

  @property
  def padding_groups(self):
    """Returns the number of padding groups at the end."""
    return self.n_blocks * self.block_groups - self.n_groups

  def spans_of(self, block):
    """Returns the number of spans that a block's queries see."""
    return ((block + 1) * self.block_keys + self.span_keys - 1) // self.span_keys

  @property
  def tiles(self):
    """Returns the blocks and spans of a head's tiles, block by block, int32 (2, tiles)."""
    pairs = [(block, span) for block in range(self.n_blocks) for span in range(self.spans_of(block))]
    return np.array(pairs, np.int32).T

  def pad_queries(self, x):
    """Pads queries to whole blocks: (B, Q, H, E) -> (B, N P G, H, E)."""
    return _padded(x, 0, self.padding_groups * self.queries_per_group)

  def pad_keys(self, x):
    """Pads keys to whole spans: (B, K, H, E) -> (B, all spans' keys, H, E)."""
    return _padded(x, 0, self.n_spans * self.span_keys - x.shape[1])

  def pad_distances(self, e):
    """Pads embedded distances to the range that tiles read: (P, K, H, E) -> (P, more, H, E)."""
    return _padded(e, self.padding_groups * self.keys_per_group, self.tile_distances)  # The end is the future: masked.

  def unpad_distances(self, e):
    """Inverts `pad_distances`."""
    first = self.padding_groups * self.keys_per_group
    return e[:, first:first + self.n_groups * self.keys_per_group]

  def transposed(self, x):
    """Transposes padded queries to columns of their blocks: (B, N P G, H, E) -> (N, H, B, E, P, G)."""
    x = x.reshape(x.shape[0], self.n_blocks, self.block_groups, self.queries_per_group, *x.shape[2:])
    return x.transpose(1, 4, 0, 5, 3, 2)


@dataclasses.dataclass(frozen=True)
class Place:
  """Locates one iteration of the loop over tiles: the tiles of h heads and b rows of the batch at one place.

  Attributes:
    tiling: the Tiling.
    n_heads: h.
    n_rows: b.
    head: the first head.
    row: the first row of the batch.
    block: number of the block.
    span: number of the span.
  """
  tiling: Tiling
  n_heads: int
  n_rows: int
  head: jax.Array
  row: jax.Array
  block: jax.Array
  span: jax.Array

  def constant(self, value):
    """Returns a float32 scalar tied to this iteration; JAX would compute arrays of a plain one once, and keep them."""
    return jnp.float32(value) + (0 * self.head).astype(jnp.float32)

  def queries(self, x):
    """Slices the block out of padded queries: (B, N P G, H, E) -> (h, b, P, G, E)."""
    x = _take(x, *self._queries)
    return x.reshape(self.n_rows, -1, self.tiling.queries_per_group, *x.shape[2:]).transpose(3, 0, 2, 1, 4)

  def put_queries(self, x, block):
    """Inverts `queries`: returns x with the block written to its place."""
    block = block.transpose(1, 3, 2, 0, 4)
    return jax.lax.dynamic_update_slice(x, block.reshape(self.n_rows, -1, *block.shape[3:]), self._queries[0])

  def columns(self, x):
    """Slices the block out of transposed queries: (N, H, B, E, P, G) -> (h, b, E, P, G)."""
    return _take(x, (self.block, self.head, self.row, 0, 0, 0), (1, self.n_heads, self.n_rows, *x.shape[3:]))[0]

  def keys(self, x):
    """Slices the span out of padded keys: (B, K, H, E) -> (h, b, C, E)."""
    return _take(x, *self._keys).transpose(2, 0, 1, 3)

  def add_keys(self, total, x):
    """Adds (h, b, E, C) to a total (B, K, H, E)."""
    return _add(total, x.transpose(1, 3, 0, 2), *self._keys)

  def distances(self, x):
    """Slices the tile's range out of padded distances: (P, more, H, E) -> (h, P, tile's distances, E)."""
    return _take(x, *self._distances).transpose(2, 0, 1, 3)

  def add_distances(self, total, x):
    """Adds (h, P, E, tile's distances) to a total (P, more, H, E)."""
    return _add(total, x.transpose(1, 3, 0, 2), *self._distances)

  def visible(self):
    """Returns the mask of the span's keys that the block's queries see, (1, 1, 1, G, C)."""
    group = self.block * self.tiling.block_groups + jnp.arange(self.tiling.block_groups)
    key = self.span * self.tiling.span_keys + jnp.arange(self.tiling.span_keys)
    return (key < (group[:, None] + 1) * self.tiling.keys_per_group)[None, None, None]

  def kept(self, head_keys, rate):
    """Returns the mask of weights that survive dropout, (h, b, P, G, C).

    Queries are numbered along a sequence, then along the batch.
    """
    tiling = self.tiling
    group = self.block * tiling.block_groups + jnp.arange(tiling.block_groups)
    query = group * tiling.queries_per_group + jnp.arange(tiling.queries_per_group)[:, None]
    row = self.row + jnp.arange(self.n_rows)[:, None, None]
    rows = row * (tiling.n_groups * tiling.queries_per_group) + query
    columns = self.span * tiling.span_keys + jnp.arange(tiling.span_keys)
    key = jax.lax.dynamic_slice_in_dim(head_keys, self.head, self.n_heads).T[..., None, None, None, None]
    return dropout_lib.keep_mask(key, rows[None, ..., None], columns[None, None, None, None], rate)

  @property
  def _queries(self):
    n = self.tiling.block_groups * self.tiling.queries_per_group
    return (self.row, self.block * n, self.head, 0), (self.n_rows, n, self.n_heads, None)

  @property
  def _keys(self):
    n = self.tiling.span_keys
    return (self.row, self.span * n, self.head, 0), (self.n_rows, n, self.n_heads, None)

  @property
  def _distances(self):
    first = self.span * self.tiling.span_keys + (self.tiling.n_blocks - 1 - self.block) * self.tiling.block_keys
    return (0, first, self.head, 0), (None, self.tiling.tile_distances, self.n_heads, None)


def _padded(x, before, after):
  """Pads the second axis with zeros before and after."""
  return jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0)))


def _take(x, first, size):
  """Slices a window out of x; an axis of size None stays whole."""
  return jax.lax.dynamic_slice(x, first, [n or all_ for n, all_ in zip(size, x.shape)])


def _add(total, part, first, size):
  """Adds a part to a window of a total."""
  return jax.lax.dynamic_update_slice(total, _take(total, first, size) + part, first)
