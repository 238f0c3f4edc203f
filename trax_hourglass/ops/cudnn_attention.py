"""Computes causal softmax attention on NVIDIA GPUs by cuDNN's fused kernel, with the arguments of tiled_attention.py.

cuDNN does not support relative positions, but adds a bias to the scores. The bias here is the position scores, skewed
to align with their keys, and the causal mask. The bias holds Q x K numbers per head in the activations' type. Content
scores and weights are never materialized. The bias has a gradient in cuDNN only for a batch of one. So the sequences of
a batch are passed as heads of a single sequence.

cuDNN takes bfloat16 only; initialisation and evaluation run in float32 and use the tiles. On other platforms XLA
computes the same formula, for tests.

Letters: B batch, H heads, E width of a head. P queries per group, A keys per group; M groups, Q = M P queries, K = M A
keys or distances. See attention.py for the geometry.
"""

import functools

import jax
import jax.numpy as jnp

from trax_hourglass.ops import attention_vjp
from trax_hourglass.ops import positions as positions_lib
from trax_hourglass.runtime import sharding

_WIDTHS = 8  # Head widths must be a multiple of this.
_WIDEST = 128  # The largest head width; 256 on some GPUs.


def refusal(q, rate):
  """Returns why cuDNN does not support an attention, or None if it does."""
  if rate > 0.0:
    return 'has no dropout of weights in JAX'
  if q.shape[-1] % _WIDTHS or q.shape[-1] > _WIDEST:
    return f'takes heads of multiples of {_WIDTHS} up to {_WIDEST} and not of {q.shape[-1]}'
  return None


@functools.partial(jax.jit, static_argnames=('queries_per_group', 'rate'))
def attend(q, k, v, positions, key, queries_per_group, rate):
  """Returns the attention output (B, Q, H, E); takes the arguments of `tiled_attention.attend`."""
  del key, rate  # See `refusal`.
  of_rows = lambda first_row, total, *inputs: _attend_to(*inputs, queries_per_group)
  return sharding.on_own_rows(of_rows, attention_vjp.in_rows(positions)[:4], True)(q, k, v, positions)


def _attend_to(q, k, v, positions, queries_per_group):
  n_rows, n_queries, n_heads, _ = q.shape
  # With the gradient of a bias, cuDNN takes even lengths only.
  q, k, v = (jnp.pad(_rows_as_heads(x), ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
  bias = _bias(positions, queries_per_group, n_queries, k.shape[1], q.dtype) if positions is not None else None
  implementation = 'cudnn' if sharding.platform() == 'gpu' else 'xla'
  out = jax.nn.dot_product_attention(q, k, v, bias=bias, scale=1.0, is_causal=bias is None,
                                     implementation=implementation)
  return out[:, :n_queries].reshape(n_queries, n_rows, n_heads, -1).swapaxes(0, 1)


def _rows_as_heads(x):
  """Moves the rows of a batch to heads: (B, L, H, E) -> (1, L, B H, E)."""
  return x.swapaxes(0, 1).reshape(1, x.shape[1], -1, x.shape[3])


def _bias(positions, queries_per_group, n_queries, n_keys, dtype):
  """Returns the position scores aligned with their keys, and masked: (1, B H, even Q, even K)."""
  queries, e = positions
  n_distances, n_groups = e.shape[1], n_queries // queries_per_group
  keys_per_group = n_distances // n_groups
  e = jnp.pad(e, ((0, 0), (0, keys_per_group), (0, 0), (0, 0)))  # The skew cuts off one group.
  groups = queries.reshape(queries.shape[0], n_groups, queries_per_group, *queries.shape[2:])
  scores = jnp.einsum('bmphe,pshe->bhpms', groups, e, preferred_element_type=jnp.float32).astype(dtype)
  scores = positions_lib.skew(scores, keys_per_group).swapaxes(2, 3).reshape(1, -1, n_queries, n_distances)
  visible = jnp.arange(n_distances) < (jnp.arange(n_queries)[:, None] // queries_per_group + 1) * keys_per_group
  padding = ((0, 0), (0, 0), (0, n_queries % 2), (0, n_keys - n_distances))
  return jnp.pad(jnp.where(visible, scores, attention_vjp.MASKED), padding,
                 constant_values=attention_vjp.MASKED).astype(dtype)
