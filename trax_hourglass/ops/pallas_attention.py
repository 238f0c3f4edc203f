"""Causal softmax attention for GPUs as three Triton kernels by Pallas, with the same arguments as tiled_attention.py's.

A kernel's program keeps one tile of scores in registers and walks over the others of its row or column (arXiv
2205.14135). Content scores it multiplies out; position scores come from memory, where one batched product put all of
them, in the activations' type, by distance. A row's distances begin A places further left than those of the group
before, so a tile reads rows that are skewed: an addition to the address, where other forms move the numbers. The
backward pass writes the position scores' gradients to the same addresses, and two batched products finish it.

Elsewhere than on a GPU the kernels are interpreted, one operation after the other: slow, for tests.

Letters: B batch, H heads, M groups, P queries per group, A keys per group, Q = M P queries, K = M A keys or distances,
E width of a head; a tile is of G queries and C keys. See attention.py for the geometry.
"""

import dataclasses
import functools

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
import jax.numpy as jnp

from trax_hourglass.ops import attention_vjp
from trax_hourglass.ops import pallas_kernels
from trax_hourglass.ops import remat
from trax_hourglass.runtime import sharding
from trax_hourglass.runtime.errors import InputError

# At most; short sequences have smaller ones. Not tuned: no GPU has run them yet. benchmarks/attention.py measures them.
_TILE_QUERIES = 64
_TILE_KEYS = 64
_SMALLEST = 16  # Triton's products take no smaller matrices.


def _forward(q, k, v, positions, head_keys, queries_per_group, rate):
  if sharding.platform() == 'tpu':
    raise InputError("attention_form is 'pallas': that is for GPUs; set Hourglass.attention_form = 'tiles'")
  tiling = _Tiling.of(q, k, queries_per_group, rate)
  padded = tiling.pad(q, tiling.n_query_tiles * tiling.tile_queries)
  out_shape = jax.ShapeDtypeStruct(padded.shape, v.dtype), jax.ShapeDtypeStruct(padded.shape[:-1], jnp.float32)
  out, log_total = _call(
      pallas_kernels.forward, tiling, tiling.n_query_tiles, out_shape, (tiling.rows_of_tile, tiling.numbers_of_tile),
      (padded, tiling.rows_of_tile), *_keys(tiling, k, v), *_inputs(tiling, positions, head_keys))
  out, log_total = checkpoint_name(out, remat.SAVED), checkpoint_name(log_total, remat.SAVED)
  return tiling.unpad(out, q), (out, log_total)


def _backward(queries_per_group, rate, inputs, kept, d_out):
  q, k, v, positions, head_keys = inputs
  out, log_total = kept
  tiling = _Tiling.of(q, k, queries_per_group, rate)
  padded, d_out = (tiling.pad(x, out.shape[2]) for x in (q, d_out))
  inner = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1)
  d_out = (d_out / (1 - rate)).astype(d_out.dtype)
  like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  others = *_keys(tiling, k, v), *_inputs(tiling, positions, head_keys)

  of_tile = tiling.rows_of_tile, tiling.numbers_of_tile
  queries = [(padded, of_tile[0]), (d_out, of_tile[0]), (log_total, of_tile[1]), (inner, of_tile[1])]
  if positions is None:
    d_positions = None
    dq, = _call(pallas_kernels.query_gradients, tiling, tiling.n_query_tiles, (like(padded),), of_tile[:1], *queries,
                *others)
  else:
    zeros = jnp.zeros((*padded.shape[:2], q.shape[1] * k.shape[1]), q.dtype)  # Distances that no key has stay so.
    dq, d_scores = _call(pallas_kernels.query_gradients, tiling, tiling.n_query_tiles, (like(padded), like(zeros)),
                         (of_tile[0], tiling.whole), *queries, *others, (zeros, tiling.whole), written_over=True)
    _, pull = jax.vjp(functools.partial(_position_scores, queries_per_group), positions)
    d_positions, = pull(d_scores)
  queries = [(x, tiling.whole) for x, _ in queries]
  (padded_k, _), (padded_v, _) = others[:2]
  dk, dv = _call(pallas_kernels.key_gradients, tiling, tiling.n_key_tiles, (like(padded_k), like(padded_v)),
                 (tiling.keys_of_tile,) * 2, *queries, (padded_k, tiling.keys_of_tile), (padded_v, tiling.keys_of_tile),
                 *others[2:])
  return tiling.unpad(dq, q), tiling.unpad(dk, k), tiling.unpad(dv, v), d_positions


attend = attention_vjp.with_gradient(_forward, _backward)  # A ValueError on a TPU.


def _position_scores(queries_per_group, positions):
  """Scores of all queries and all distances, (B, H, Q K)."""
  queries, e = positions
  groups = queries.reshape(queries.shape[0], -1, queries_per_group, *queries.shape[2:])
  scores = jnp.einsum('bmphe,pshe->bhmps', groups, e, preferred_element_type=jnp.float32).astype(queries.dtype)
  return scores.reshape(*scores.shape[:2], -1)


@dataclasses.dataclass(frozen=True)
class _Tiling:
  """Sizes that kernels know: M, P, A, G, C and how many tiles there are; dropout too, as it is static."""
  n_groups: int
  queries_per_group: int
  keys_per_group: int
  tile_queries: int
  tile_keys: int
  rate: float

  @classmethod
  def of(cls, q, k, queries_per_group, rate):
    n_groups = q.shape[1] // queries_per_group
    tile_queries, tile_keys = (max(_SMALLEST, min(most, pl.next_power_of_2(x.shape[1])))
                               for most, x in ((_TILE_QUERIES, q), (_TILE_KEYS, k)))
    return cls(n_groups, queries_per_group, k.shape[1] // n_groups, tile_queries, tile_keys, rate)

  @property
  def n_queries(self):
    return self.n_groups * self.queries_per_group

  @property
  def n_keys(self):
    return self.n_groups * self.keys_per_group

  @property
  def n_query_tiles(self):
    return pl.cdiv(self.n_queries, self.tile_queries)

  @property
  def n_key_tiles(self):
    return pl.cdiv(self.n_keys, self.tile_keys)

  def pad(self, x, n):
    """(B, L, H, E) -> (B, H, n, power of two)."""
    width = max(_SMALLEST, pl.next_power_of_2(x.shape[-1]))
    return jnp.pad(x, ((0, 0), (0, n - x.shape[1]), (0, 0), (0, width - x.shape[-1]))).swapaxes(1, 2)

  def unpad(self, x, like):
    """Undoes `pad`."""
    return x.swapaxes(1, 2)[:, :like.shape[1], :, :like.shape[3]].astype(like.dtype)

  # Which part of an array a program (row of the batch, head, number of its tile) sees.
  def rows_of_tile(self, x):
    return pl.BlockSpec((None, None, self.tile_queries, x.shape[-1]), lambda b, h, n: (b, h, n, 0))

  def keys_of_tile(self, x):
    return pl.BlockSpec((None, None, self.tile_keys, x.shape[-1]), lambda b, h, n: (b, h, n, 0))

  def numbers_of_tile(self, x):
    del x
    return pl.BlockSpec((None, None, self.tile_queries), lambda b, h, n: (b, h, n))

  def whole(self, x):
    return pl.BlockSpec((None, None, *x.shape[2:]), lambda b, h, n: (b, h) + (0,) * (x.ndim - 2))

  def of_head(self, x):
    return pl.BlockSpec((None, *x.shape[1:]), lambda b, h, n: (h, 0))


def _keys(tiling, k, v):
  n = tiling.n_key_tiles * tiling.tile_keys
  return [(tiling.pad(x, n), tiling.whole) for x in (k, v)]


def _inputs(tiling, positions, head_keys):
  """What not all attentions have, each with its part, or None."""
  scores = None if positions is None else (_position_scores(tiling.queries_per_group, positions), tiling.whole)
  return scores, None if head_keys is None else (head_keys, tiling.of_head)


def _call(kernel, tiling, n_tiles, out_shapes, out_parts, *inputs, written_over=False):
  """Runs a kernel for all rows of the batch, heads and tiles.

  Args:
    kernel: function (tiling, one reference or None an input and output).
    tiling: the _Tiling.
    n_tiles: tiles of a head.
    out_shapes: shapes and types of the outputs.
    out_parts: for each the method of _Tiling that says what of it a program sees.
    *inputs: (array, such a method) each, or None.
    written_over: whether the last output takes the memory, and what stands in it, of the last input.
  """
  arrays = [None if x is None else x[0] for x in inputs]
  given = [x for x in inputs if x is not None]
  on_gpu = sharding.platform() == 'gpu'
  return pl.pallas_call(
      functools.partial(kernel, tiling),
      grid=(*out_shapes[0].shape[:2], n_tiles),
      in_specs=[None if x is None else x[1](x[0]) for x in inputs],
      out_specs=[part(shape) for part, shape in zip(out_parts, out_shapes)],
      out_shape=list(out_shapes),
      input_output_aliases={len(given) - 1: len(out_shapes) - 1} if written_over else {},
      interpret=not on_gpu,
      compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
      name=f'attention_{kernel.__name__}',
  )(*arrays)
