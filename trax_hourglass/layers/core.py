"""Embedding of tokens, whose gradient is added up in float32 whatever the type of activations.

A byte that occurs a thousand times in a batch has a thousand terms in the gradient of its row. Added one after the other in
bfloat16, which has 8 bits, most of them would be rounded away.

Letters: B batch, L tokens, V vocabulary, D model width.
"""

import jax
import jax.numpy as jnp
import trax.layers as tl


@jax.custom_vjp
def _rows(weights, tokens):
  return jnp.take(weights, tokens, axis=0, mode='clip')


def _forward(weights, tokens):
  return _rows(weights, tokens), (weights, tokens)


def _backward(saved, d_out):
  weights, tokens = saved
  gradient = jnp.zeros(weights.shape, jnp.float32)
  gradient = gradient.at[jnp.clip(tokens, 0, len(weights) - 1)].add(d_out.astype(jnp.float32))
  return gradient.astype(weights.dtype), None


_rows.defvjp(_forward, _backward)


class Embedding(tl.Embedding):
  """Trax's Embedding, with that gradient: tokens (B, L) -> (B, L, D)."""

  def forward(self, tokens):
    return _rows(self.weights, tokens)
