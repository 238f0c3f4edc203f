"""Computes causal attention to a window of the last vectors: exact, with static shapes, linear in the length.

Query i sees keys i - W + 1 .. i. Queries are cut into blocks of W, which see only keys of their own block and of the
block before. So a block's scores are W x 2 W at any length. Blocks are computed one after the other and recomputed in
the backward pass, so that only one block's scores exist at a time. Mode 'predict' keeps the last W vectors.

Letters: B batch, H heads, L vectors, W window, N blocks, E width of a head, C vectors kept.
"""

import functools
import typing

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from trax_hourglass.ops import attention_vjp
from trax_hourglass.ops import dropout as dropout_lib
from trax_hourglass.ops import prng
from trax_hourglass.ops import remat

_MASKED = -1e9  # The score of a masked key; as in Trax.


def attend(content, position, k, v, e, key, rate):
  """Returns the output (B, L, H, E) of `attention.local_attention`, before the output projection.

  Args:
    content, position: queries of the content and position scores (B, L, H, E), divided by sqrt(E).
    k: keys (B, L, H, E).
    v: values (B, L, H, E).
    e: projected distances (W, H, E).
    key: JAX PRNG key uint32 (2,); needed if rate > 0.
    rate: dropout rate of attention weights, in [0, 1).
  """
  return _attend(content, k, v, (position, e[None]), key, rate)


def _of_whole(content, k, v, positions, key, rate):
  position, e = positions
  length, window, n_heads = content.shape[1], min(content.shape[1], e.shape[1]), content.shape[2]
  e = e[0, e.shape[1] - window:]
  n_blocks = -(-length // window)
  queries = tuple(_blocks(x, n_blocks, window) for x in (content, position))
  seen = tuple(_with_block_before(_blocks(x, n_blocks, window)) for x in (k, v))
  head_keys = prng.split(key, n_heads) if rate > 0.0 else None
  block = jax.checkpoint(functools.partial(_block, length, rate, head_keys, e))
  out = jax.lax.map(lambda args: block(*args), (jnp.arange(n_blocks), *queries, *seen))
  out = out.swapaxes(0, 1).reshape(k.shape[0], n_blocks * window, *k.shape[2:])[:, :length]
  return checkpoint_name(out, remat.SAVED)


_of_whole.__name__ = attention_vjp.NAME
_attend = jax.jit(_of_whole, static_argnames='rate')


class Window(typing.NamedTuple):
  """Holds the KV cache of the last C vectors in mode 'predict': C is W, or the capacity if smaller.

  Vector i is stored at place i % C. Row d of the table is the projected distance to a key d vectors back.
  """
  keys: jax.Array
  values: jax.Array
  table: jax.Array


def empty(batch, n_heads, width, capacity, dtype):
  """Returns an empty Window: keys and values (B, H, C, E), table (H, C, E)."""
  zeros = lambda *first: jnp.zeros((*first, n_heads, capacity, width), dtype)
  return Window(zeros(batch), zeros(batch), zeros())


def begun(window, k, v, e):
  """Returns the Window after a sequence's first vectors.

  Args:
    window: an empty Window.
    k: keys (B, n, H, E).
    v: values (B, n, H, E).
    e: projected distances (n or W, H, E) of -(n - 1) .. 0, or of -(W - 1) .. 0 if W < n.
  """
  n, capacity = k.shape[1], window.keys.shape[2]
  kept = np.arange(max(0, n - capacity), n)
  put = lambda there, x: there.at[:, :, kept % capacity].set(x[:, kept].swapaxes(1, 2).astype(there.dtype))
  rows = e[::-1][:capacity].swapaxes(0, 1).astype(window.table.dtype)
  return Window(put(window.keys, k), put(window.values, v), window.table.at[:, :rows.shape[1]].set(rows))


def step(window, number, content, position, k, v, e):
  """Returns the Window with one more vector, and the attention output of its query, (B, H, E) float32.

  Args:
    window: the Window of the vectors before.
    number: number of the vector, from 0, int32 ().
    content, position: its queries of the content and position scores, (B, H, E), divided by sqrt(E).
    k: its key (B, 1, H, E).
    v: its value (B, 1, H, E).
    e: projected distance (H, E) of -min(number, C - 1).
  """
  capacity = window.keys.shape[2]
  put = lambda there, x, at: jax.lax.dynamic_update_slice_in_dim(there, x.astype(there.dtype), at, axis=there.ndim - 2)
  keys, values = (put(there, x.swapaxes(1, 2), number % capacity) for there, x in zip(window, (k, v)))
  table = put(window.table, e[:, None], jnp.minimum(number, capacity - 1))
  age = (number - jnp.arange(capacity)) % capacity
  scores = _product('bhe,bhce->bhc', content.astype(keys.dtype), keys)
  scores += _product('bhe,hce->bhc', position.astype(table.dtype), table)[..., age]
  weights = jax.nn.softmax(jnp.where(age <= number, scores, _MASKED))
  return Window(keys, values, table), _product('bhc,bhce->bhe', weights.astype(values.dtype), values)


def _block(length, rate, head_keys, e, number, content, position, k, v):
  """Computes attention of a block: two queries (B, W, H, E), keys and values (B, 2 W, H, E) -> (B, W, H, E)."""
  window = content.shape[1]
  query = number * window + jnp.arange(window)[:, None]
  key = number * window + jnp.arange(-window, window)[None, :]
  scores = _product('bqhe,bkhe->bhqk', content, k) + _skew(_product('bqhe,dhe->bhqd', position, e))
  visible = (key <= query) & (key > query - window) & (key >= 0)
  weights = jax.nn.softmax(jnp.where(visible, scores, _MASKED))
  if rate > 0.0:
    rows = jnp.arange(content.shape[0])[:, None, None] * length + query
    drop = lambda weights, head_key: dropout_lib.drop(weights, head_key, rate, rows, key)
    weights = jax.vmap(drop, in_axes=(1, 0), out_axes=1)(weights, head_keys)
  return _product('bhqk,bkhe->bqhe', weights.astype(v.dtype), v).astype(v.dtype)


def _blocks(x, n_blocks, window):
  """Pads at the end and cuts into blocks: (B, L, H, E) -> (N, B, W, H, E)."""
  x = jnp.pad(x, ((0, 0), (0, n_blocks * window - x.shape[1]), (0, 0), (0, 0)))
  return x.reshape(x.shape[0], n_blocks, window, *x.shape[2:]).swapaxes(0, 1)


def _with_block_before(x):
  """Prepends to each block the block before, zeros to the first: (N, B, W, H, E) -> (N, B, 2 W, H, E)."""
  before = jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
  return jnp.concatenate([before, x], axis=2)


def _skew(x):
  """Moves scores from distances to keys: (..., W, W) -> (..., W, 2 W).

  For query i of a block, distance d belongs to key i + d + 1 of the two blocks. Rows are padded to 2 W + 1 numbers and
  read as rows of 2 W. This shifts each row by one more than the row before.
  """
  *lead, window, _ = x.shape
  x = jnp.pad(x, ((0, 0),) * (len(lead) + 1) + ((1, window),))
  return x.reshape(*lead, -1)[..., :2 * window * window].reshape(*lead, window, 2 * window)


def _product(axes, a, b):
  """Computes an Einstein sum with a float32 result."""
  return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)
