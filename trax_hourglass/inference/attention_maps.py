"""Computes attention maps for visualization.

Attention never materializes its weights (tiled_attention.py). So a watched model computes them separately, as attention
over one-hot values.

Letters: B batch, L tokens, H heads, k total shorten factor of a stack.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np
from trax import shapes

from trax_hourglass.layers import attention as attention_lib
from trax_hourglass.ops import attention


def attention_maps(make_model, weights, tokens):
  """Returns the attention weights of each stack, for a model with relative attention.

  Args:
    make_model: function (mode, vanilla_attention, shortened_attention) -> Hourglass, such as `Hourglass` with its
      other arguments bound by gin, or `run_directory.setting('model')` of an opened run.
    weights: the model's weights.
    tokens: (B, L) with L of a few hundred at most, since all maps exist at the same time.

  Returns:
    {k: [weights (B, H, L/k, L/k), one array per block, in order of execution]}. Row i holds the weights of query i over
    the keys and sums to 1. L is rounded up to whole groups. The list has the blocks before shortening first, then those
    after upsampling.
  """
  seen = collections.defaultdict(list)
  watched = lambda spec, tokens_per_vector: Watched(spec, tokens_per_vector, seen)
  model = make_model(mode='eval', vanilla_attention=watched, shortened_attention=watched)
  tokens = np.asarray(tokens, np.int32)
  model.init(shapes.signature(tokens))
  outputs, _ = jax.jit(model.pure_fn)(tokens, weights, model.state, jax.random.PRNGKey(0))
  jax.block_until_ready(outputs)
  jax.effects_barrier()  # Waits for all callbacks.
  return dict(seen)


class Watched(attention_lib.RelativeAttention):
  """Applies RelativeAttention within a level and records its weights."""

  def __init__(self, spec, tokens_per_vector, seen):
    super().__init__(spec, tokens_per_vector)
    self._seen = seen

  def _attended(self, q, k, v, e, context_bias, location_bias, rng):
    n, width = q.shape[1], q.shape[3]
    parts = []
    for first in range(0, n, width):  # Values have the width of a head.
      one_hot = jnp.eye(n, width, -first, dtype=q.dtype)[None, :, None]
      parts.append(
          attention.relative_attention(q, k, jnp.broadcast_to(one_hot, q.shape), e, context_bias, location_bias))
    maps = jnp.concatenate(parts, axis=-1)[..., :n].swapaxes(1, 2)
    jax.debug.callback(lambda x: self._seen[self._unit].append(np.asarray(x)), maps, ordered=True)
    return super()._attended(q, k, v, e, context_bias, location_bias, rng)
