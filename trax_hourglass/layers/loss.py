"""Computes the cross-entropy of a language model, with an option not to hold all logits at once.

Letters: B batch, L tokens, V vocabulary, D model width, C tokens per chunk.
"""

import jax
import jax.numpy as jnp
from trax import fastmath
from trax import layers as tl

from trax_hourglass.runtime import checks
from trax_hourglass.runtime import sharding
from trax_hourglass.runtime.errors import InputError


def token_nats(model, tokens, targets, weights, state, rng, chunk=None):
  """Returns -log p of each target in nats, (B, L) float32, and the model's new state.

  Args:
    model: layer tokens (B, L) -> logits (B, L, V); a chunk needs the methods `vectors` and `logits` of
      `language_model.LanguageModel`.
    tokens: (B, L).
    targets: (B, L), or those of the last tokens if the model returns outputs for these only.
    weights: the model's.
    state: the model's.
    rng: JAX PRNG key uint32 (2,).
    chunk: C, tokens of each sequence whose logits exist at the same time, forward and backward; None for all.
  """
  if chunk is None:
    logits, state = model.pure_fn(tokens, weights, state, rng)
    return _nats(logits, targets), state
  vectors, state = model.vectors(tokens, weights, state, rng)
  # Gradients of chunks are summed in this type, so that many small ones are not rounded away.
  weights = sharding.gathered(weights)
  wide = jax.tree.map(lambda w: w.astype(jnp.promote_types(w.dtype, jnp.float32)), weights)

  @jax.checkpoint  # The backward pass rematerializes a chunk's logits.
  def nats(vectors, targets, wide):
    narrow = jax.tree.map(lambda w, as_given: w.astype(as_given.dtype), wide, weights)
    with sharding.all_gathered():
      return _nats(model.logits(vectors, narrow), targets)

  length = targets.shape[1]
  n_chunks = -(-length // chunk)
  chunk = -(-length // n_chunks)  # As short as possible, so that there is little padding.
  def cut(x):
    x = jnp.pad(x, ((0, 0), (0, n_chunks * chunk - length)) + ((0, 0),) * (x.ndim - 2))
    return x.reshape(x.shape[0], n_chunks, chunk, *x.shape[2:]).swapaxes(0, 1)
  _, by_chunk = jax.lax.scan(lambda _, x: (None, nats(*x, wide)), None, (cut(vectors), cut(targets)))
  return by_chunk.swapaxes(0, 1).reshape(targets.shape[0], -1)[:, :length], state


def _nats(logits, targets):
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]


def check_chunk(model, chunk):
  """Raises InputError unless `chunk` is None, or a whole number above 0 with a model of this project."""
  if chunk is None:
    return
  checks.check_sizes(loss_chunk=chunk)
  if not hasattr(model, 'vectors'):
    raise InputError(f'loss_chunk is {chunk}, but {model.name} does not give vectors apart from logits: leave it None')


class LossInChunks(tl.Serial):
  """Computes `Serial(model, WeightedCategoryCrossEntropy())` by chunks: (tokens, targets, weights) -> mean nats."""

  def __init__(self, model, chunk):
    """Creates the layer, initialised if the model is.

    Args:
      model: a `language_model.LanguageModel`.
      chunk: C.
    """
    super().__init__(model, tl.WeightedCategoryCrossEntropy())
    self._chunk = chunk

  def forward(self, batch):
    tokens, targets, token_weights = batch
    model, (rng, _) = self.sublayers[0], fastmath.random.split(self.rng, 2)  # As Serial does.
    nats, state = token_nats(model, tokens, targets, self.weights[0], self.state[0], rng, self._chunk)
    self.state = (state, ())
    return (nats * token_weights).sum() / token_weights.sum()
