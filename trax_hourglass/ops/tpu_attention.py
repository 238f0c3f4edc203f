"""Computes causal softmax attention on TPUs by two Pallas kernels, the same function as in tiled_attention.py.

Queries and keys are indexed by their place in a group. Queries of one place against keys of one place are attention
within a level, of M queries and M keys. So one pair of kernels covers all geometries, and a window. One step of a
kernel's grid computes one tile of scores; a table lists the tiles. The backward kernel computes each tile once for all
gradients, and accumulates those of keys, values and distances in VMEM. HBM holds no array of size Q x K.

A grid step computes as many heads as fill the 128 lanes of a register, so that arrays keep the layout of the
projections. On other platforms the kernels are interpreted, operation by operation, which is slow and serves tests.

Letters: B batch, H heads, E width of a head. P queries per group, A keys per group; M groups, Q = M P queries, K = M A
keys, W groups that a query sees. See attention.py for the geometry.
"""

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from trax_hourglass.ops import attention_vjp
from trax_hourglass.ops import remat
from trax_hourglass.ops import tpu_kernels
from trax_hourglass.ops import tpu_tile
from trax_hourglass.ops.tpu_layout import Layout
from trax_hourglass.runtime import sharding

# Bytes of VMEM by kind of device; other kinds are assumed to have _LEAST_VMEM. Earlier TPUs have 16 MiB, and cannot
# reorder the rows of a register.
_VMEM = {'TPU v5 lite': 128 << 20, 'TPU v5e': 128 << 20, 'TPU v6 lite': 128 << 20, 'TPU v6e': 128 << 20}
_LEAST_VMEM = 64 << 20
_TOO_OLD = 'TPU v2', 'TPU v3', 'TPU v4'
_NAMED, _ALL = 0.7, 0.9  # Shares of VMEM: for the kernels' buffers, and for these with intermediate values.


def refusal(q, k, e, queries_per_group):
  """Returns why the kernels do not support an attention, or None if they do; arguments are as for `Layout.of`."""
  kind = sharding.device_kind()
  if kind.startswith(_TOO_OLD):
    return f'needs a TPU v5e or later, not a {kind}'
  layout = Layout.of(q, k, e, queries_per_group, 0.5)
  room = _vmem(_NAMED)
  if layout.vmem_bytes(q.dtype) > room:
    return f'needs {layout.vmem_bytes(q.dtype) >> 20} MiB of VMEM for {k.shape[1]:,} keys and has {room >> 20}'
  return None


def _vmem(share):
  return int(share * _VMEM.get(sharding.device_kind(), _LEAST_VMEM))


def _forward(q, k, v, positions, head_keys, queries_per_group, rate):
  layout = Layout.of(q, k, positions and positions[0], queries_per_group, rate)
  numbers = jax.ShapeDtypeStruct((q.shape[0], layout.head_blocks, queries_per_group, layout.block_heads, layout.padded),
                                 jnp.float32)
  outputs = [(jax.ShapeDtypeStruct(layout.folded_shape(q, queries_per_group), v.dtype), layout.queries),
             (numbers, layout.numbers)]
  scratch = [*layout.between_turns(q.dtype, positions is not None), layout.columns, layout.columns, layout.rows]
  kept = _call(tpu_kernels.forward, layout, head_keys, _inputs(layout, q, k, v, positions), outputs, scratch)
  kept = tuple(checkpoint_name(x, remat.SAVED) for x in kept)
  return layout.unfold(kept[0], q), kept


def _backward(queries_per_group, rate, inputs, kept, d_out):
  q, k, v, positions, head_keys = inputs
  layout = Layout.of(q, k, positions and positions[0], queries_per_group, rate)
  queries = lambda x: (x, layout.queries)
  of_queries = [queries(layout.fold(d_out, queries_per_group)), queries(kept[0]), (kept[1], layout.numbers)]
  like = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)
  of_keys = [(like(layout.keys_per_group, q.shape[0], layout.n_groups, layout.all_lanes, dtype=x.dtype),
              layout.all_keys) for x in (k, v)]
  of_positions = [None, None] if positions is None else [
      (like(queries_per_group, layout.keys_per_group, (layout.blocks_seen + 1) * layout.block, layout.all_lanes),
       layout.all_distances), (like(2, layout.all_lanes), layout.biases)]
  between_turns = layout.between_turns(q.dtype, positions is not None)
  sums = [layout.rows, layout.sum_of_keys, layout.sum_of_keys, positions and layout.rows]
  dq, dk, dv, de, d_biases = _call(
      tpu_kernels.backward, layout, head_keys, _inputs(layout, q, k, v, positions) + of_queries,
      [(like(*layout.folded_shape(q, queries_per_group), dtype=q.dtype), layout.queries), *of_keys, *of_positions],
      [*between_turns, positions and layout.by_head(q.dtype), layout.by_head(q.dtype), layout.columns, layout.columns,
       *sums])
  dk, dv = (layout.unfold(jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1), like) for x, like in ((dk, k), (dv, v)))
  d_positions = None
  if positions is not None:
    de = layout.unfold_distances(de * tpu_tile.LN_2, positions[0])
    d_positions = de, *layout.unfold_biases(d_biases, positions[1])
  return layout.unfold(dq, q), dk, dv, d_positions


# Positions are (projected distances (P, W A, H, E), context bias (H, E), location bias (H, E)). Queries are not yet
# divided by sqrt(E): the kernels add the biases and divide.
attend = attention_vjp.with_gradient(_forward, _backward, position_rows=(False, False, False))


def _inputs(layout, q, k, v, positions):
  """Returns the inputs of both kernels, each with the BlockSpec of a grid step's part."""
  inputs = [(layout.fold(q, layout.queries_per_group), layout.queries),
            *((layout.fold(x, layout.keys_per_group), layout.keys) for x in (k, v))]
  if positions is None:
    return [*inputs, None, None, None]
  e = layout.fold_distances(positions[0])
  biases = layout.fold_biases(*positions[1:])
  return [*inputs, (e, layout.distances(0)), (e, layout.distances(1)), (biases, layout.biases)]


def _call(kernel, layout, head_keys, inputs, outputs, scratch):
  """Runs a kernel for all blocks of heads, rows of the batch and tiles.

  Args:
    kernel: function (layout, table, head keys or None, then a reference or None for each input, output and scratch).
    layout: the Layout.
    head_keys: uint32 (H, 2) or None.
    inputs: list of (array, BlockSpec) or None.
    outputs: list of (shape and type, BlockSpec) or None.
    scratch: list of shape and type, or None.

  Returns:
    list of the outputs, with None for each None in `outputs`.
  """
  is_backward = kernel is tpu_kernels.backward
  given = lambda values: [value for value in values if value is not None]
  tables = [layout.table]
  if head_keys is not None:
    filled = jnp.pad(head_keys, ((0, layout.head_blocks * layout.block_heads - layout.n_heads), (0, 0)))
    tables.append(jax.lax.bitcast_convert_type(filled, jnp.int32))

  def body(*refs):
    refs = list(refs)
    table, keys = refs.pop(0), None if head_keys is None else refs.pop(0)
    kernel(layout, table, keys, *(None if one is None else refs.pop(0) for one in (*inputs, *outputs, *scratch)))

  results = pl.pallas_call(
      body,
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=len(tables),
          grid=(layout.head_blocks, inputs[0][0].shape[0], layout.table.shape[1]),
          in_specs=[spec for _, spec in given(inputs)],
          out_specs=[spec for _, spec in given(outputs)],
          scratch_shapes=[pltpu.VMEM(one.shape, one.dtype) for one in given(scratch)]),
      out_shape=[shape for shape, _ in given(outputs)],
      interpret=sharding.platform() != 'tpu',
      compiler_params=pltpu.CompilerParams(dimension_semantics=('arbitrary',) * 3, vmem_limit_bytes=_vmem(_ALL)),
      name=f'attention_{kernel.__name__}',
      metadata={'bundles': str(layout.bundles[is_backward] * layout.head_blocks * inputs[0][0].shape[0])},
  )(*tables, *(array for array, _ in given(inputs)))
  results = list(results)
  return [None if output is None else results.pop(0) for output in outputs]
