"""Transformer-XL relative attention as Trax layers: within a level, and across the two rates of a resampling.

Letters: B batch, Q queries, K keys, L vectors of a level, D model width, H heads, E = D / H.
"""

import jax.numpy as jnp
from trax import fastmath
from trax.layers import base
from trax.layers import initializers

from trax_hourglass import attention

_KERNEL = initializers.GlorotUniformInitializer()
_BIAS = initializers.RandomNormalInitializer(1e-6)


class RelativeBiases(base.Layer):
  """The two biases of Transformer-XL's scores, shared by all attention of a model: () -> ((H, E), (H, E))."""

  def __init__(self, d_model, n_heads):
    super().__init__(n_in=0, n_out=2)
    self._shape = (n_heads, d_model // n_heads)

  def forward(self, _):
    return self.weights

  def init_weights_and_state(self, _):
    self.weights = tuple(_BIAS(self._shape, rng) for rng in fastmath.random.split(self.rng, 2))


class RelativeAttention(base.Layer):
  """Causal relative attention: (queries (B, Q, D), keys (B, K, D), biases (H, E) twice) -> (B, Q, D).

  Self-attention takes (x, biases) and uses x for both. Weights are five affine maps, ((w, b), ...), in the order
  position, query, key, value, output. Distances are counted in tokens; see `attention.py` for the geometry.
  """

  def __init__(self, spec, queries_per_group=1, keys_per_group=1, unit=1):
    """Creates the layer.

    Args:
      spec: the model's BlockSpec.
      queries_per_group: fine queries per coarse key when upsampling, else 1.
      keys_per_group: fine keys per coarse query when shortening, else 1.
      unit: what a step of the finer sequence counts as a distance; tokens per vector, for distances in tokens.
    """
    self._within_level = queries_per_group == keys_per_group == 1
    super().__init__(n_in=3 if self._within_level else 4, name=f'RelativeAttention_{spec.n_heads}_heads')
    self._spec = spec
    self._queries_per_group = queries_per_group
    self._keys_per_group = keys_per_group
    self._unit = unit

  def init_weights_and_state(self, _):
    shape = (self._spec.d_model, self._spec.d_model)
    self.weights = tuple(
        tuple(make(s, rng) for make, s, rng in zip((_KERNEL, _BIAS), (shape, shape[1:]), fastmath.random.split(rng)))
        for rng in fastmath.random.split(self.rng, 5))

  def forward(self, inputs):
    queries, keys = (inputs[0], inputs[0]) if self._within_level else inputs[:2]
    position, query, key, value, output = self.weights
    distances = self._unit * attention.distances(
        queries.shape[1] // self._queries_per_group, self._queries_per_group, self._keys_per_group)
    e = _affine(attention.sinusoids(distances, self._spec.d_model).astype(queries.dtype), position)
    out = attention.relative_attention(
        self._heads(_affine(queries, query)), self._heads(_affine(keys, key)), self._heads(_affine(keys, value)),
        self._heads(e), *inputs[-2:],
        rate=self._spec.dropout if self._spec.mode == 'train' else 0.0,
        key=self.rng)
    return _affine(out.reshape(queries.shape), output)

  def _heads(self, x):
    return x.reshape(*x.shape[:-1], self._spec.n_heads, -1)


def _affine(x, weights):
  w, b = weights
  return jnp.dot(x, w) + b


def CausalRelativeAttention(spec, tokens_per_vector):
  """Attention of a stack's blocks (paper section 2): (x (B, L, D), biases (H, E) twice) -> (B, L, D).

  Args:
    spec: the model's BlockSpec.
    tokens_per_vector: total shorten factor of the level.
  """
  return RelativeAttention(spec, unit=tokens_per_vector)
