"""Gives attention functions a custom gradient and runs them on each device's own rows of the batch.

Letters: B batch, H heads, P queries per group, Q queries, K keys or distances, E width of a head. See attention.py for
the geometry.
"""

import functools

import jax
import jax.numpy as jnp

from trax_hourglass.ops import dropout
from trax_hourglass.ops import prng
from trax_hourglass.ops import wide_sums
from trax_hourglass.runtime import sharding

NAME = 'trax_hourglass.attend'  # models/flops.py finds attention by this name; no user function has a dot in its name.
MASKED = -1e9  # The score of a masked key; as in Trax.


def in_rows(positions, position_rows=(True, False)):
  """Returns whether each of q, k, v, positions and head keys has the batch as first axis."""
  return True, True, True, positions and position_rows, False


def with_gradient(forward, backward, position_rows=(True, False)):
  """Returns an attention function with a custom gradient, traced once for equal arguments.

  Each of several devices computes its own rows of the batch, with the same dropout masks as on a single device.

  Args:
    forward: function (q, k, v, positions, head keys (H, 2), queries_per_group, rate) -> (output, residuals). Residuals
      are a tree of what backward needs besides the arguments, all with the batch as first axis.
    backward: function (queries_per_group, rate, forward's first five arguments, residuals, gradient of the output) ->
      gradients of the first four arguments.
    position_rows: for each array of positions, whether its first axis is the batch.
  """
  @functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
  def output(*args):
    return forward_rule(*args)[0]

  def forward_rule(q, k, v, positions, head_keys, queries_per_group, rate):
    def of_rows(first_row, total, q, k, v, positions, head_keys):
      del total
      return forward(q, k, v, positions, _keys_of_rows(head_keys, q, first_row), queries_per_group, rate)

    inputs = q, k, v, positions, head_keys
    out, kept = sharding.on_own_rows(of_rows, in_rows(positions, position_rows), True)(*inputs)
    return out, (inputs, kept)

  def backward_rule(queries_per_group, rate, saved, d_out):
    def of_rows(first_row, total, inputs, kept, d_out):
      q, k, v, positions, head_keys = inputs
      inputs = q, k, v, positions, _keys_of_rows(head_keys, q, first_row)
      *gradients, d_positions = backward(queries_per_group, rate, inputs, kept, d_out)
      if positions is not None:
        d_positions = tuple(d if of_row else wide_sums.rounded(total(d.astype(jnp.float32)), x.dtype)
                            for x, d, of_row in zip(positions, d_positions, position_rows))
      return *gradients, d_positions

    inputs, kept = saved
    rows = in_rows(inputs[3], position_rows)
    return *sharding.on_own_rows(of_rows, (rows, True, True), rows[:4])(inputs, kept, d_out), None

  output.defvjp(forward_rule, backward_rule)

  def attend(q, k, v, positions, key, queries_per_group, rate):
    """Returns the attention's output (B, Q, H, E), before the output projection.

    Args:
      q: queries of the content scores (B, Q, H, E), divided by sqrt(E).
      k: keys (B, K, H, E).
      v: values (B, K, H, E).
      positions: None, or (queries of the position scores (B, Q, H, E), divided by sqrt(E); embedded distances (P, K, H,
        E)). The 'tpu' form takes others (tpu_attention.py).
      key: JAX PRNG key uint32 (2,); needed if rate > 0.
      queries_per_group: P.
      rate: dropout rate of attention weights, in [0, 1).
    """
    head_keys = prng.split(key, q.shape[2]) if rate > 0.0 else None
    return output(q, k, v, positions, head_keys, queries_per_group, rate)

  attend.__name__ = NAME
  return jax.jit(attend, static_argnames=('queries_per_group', 'rate'))


def _keys_of_rows(head_keys, q, first_row):
  """Returns the head keys of this device's queries (B, Q, H, E); `first_row`(B) is its first row of the batch."""
  return None if head_keys is None else dropout.key_from_row(head_keys, first_row(q.shape[0]) * q.shape[1])
