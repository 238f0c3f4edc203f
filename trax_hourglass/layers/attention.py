"""Applies causal attention as Trax layers: relative, rotary and local.

Relative attention works within a level and across the two rates of a resampling. Rotary and local attention work within
a level.

In mode 'predict' the state is (step, cache): the number of queries so far, int32, and a KV cache (kv_cache.py,
local_attention.py). The first call may hold many queries; later calls hold one.

Letters: B batch, Q queries, K keys, L vectors of a level, D model width, H heads, E = D / H. P queries and A keys form
a group.
"""

import jax
import jax.numpy as jnp
from trax import fastmath
from trax.layers import base
from trax.layers import initializers

from trax_hourglass.layers.plugins import decodes
from trax_hourglass.ops import attention
from trax_hourglass.ops.dense import affine
from trax_hourglass.ops import kv_cache
from trax_hourglass.ops import local_attention
from trax_hourglass.ops import positions as positions_lib
from trax_hourglass.runtime import checks
from trax_hourglass.runtime import sharding
from trax_hourglass.runtime.errors import InputError

_KERNEL = initializers.GlorotUniformInitializer()
_BIAS = initializers.RandomNormalInitializer(1e-6)


class RelativeBiases(base.Layer):
  """Holds the two biases of Transformer-XL's scores, which a model's layers share: () -> ((H, E), (H, E))."""

  def __init__(self, d_model, n_heads):
    super().__init__(n_in=0, n_out=2)
    self._shape = (n_heads, d_model // n_heads)

  def forward(self, _):
    return self.weights

  def init_weights_and_state(self, _):
    self.weights = tuple(_BIAS(self._shape, rng) for rng in fastmath.random.split(self.rng, 2))


class RelativeAttention(base.Layer):
  """Applies causal relative attention: (queries (B, Q, D), keys (B, K, D), biases (H, E) twice) -> (B, Q, D).

  Self-attention takes (x, biases) and uses x for both queries and keys. Weights are five affine maps, ((w, b), ...), in
  the order position, query, key, value, output. Distances are counted in tokens; see ops/attention.py for the geometry.
  """

  def __init__(self, spec, tokens_per_vector, queries_per_group=1, keys_per_group=1, unit=None):
    """Creates the layer.

    Args:
      spec: the model's BlockSpec.
      tokens_per_vector: total factor of the finer sequence.
      queries_per_group: fine queries per coarse key when upsampling, else 1.
      keys_per_group: fine keys per coarse query when shortening, else 1.
      unit: distance of one step along the finer sequence; None for tokens_per_vector.
    """
    self._within_level = queries_per_group == keys_per_group == 1
    super().__init__(n_in=3 if self._within_level else 4, name=f'RelativeAttention_{spec.n_heads}_heads')
    self._spec = spec
    self._queries_per_group = queries_per_group
    self._keys_per_group = keys_per_group
    self._unit = tokens_per_vector if unit is None else unit
    self._n_groups = spec.capacity(tokens_per_vector * queries_per_group * keys_per_group)

  def init_weights_and_state(self, input_signature):
    self.weights = _affine_maps(5, self._spec.d_model, self.rng)
    if self._spec.decodes:
      self.state = _empty(self._spec, self._n_groups * self._keys_per_group, input_signature[0],
                          self._queries_per_group)

  @sharding.gathers_weights
  def forward(self, inputs):
    if self._spec.decodes and inputs[0].shape[1] == 1:
      queries, keys = self._queries_and_keys(inputs)
      return self._output(self._step(self._queries(queries), keys, *inputs[-2:]), queries)
    return self._all(inputs)

  def _all(self, inputs):
    """Attends from all queries (B, Q, D) to all keys (B, K, D); in mode 'predict' also fills the caches."""
    queries, keys = self._queries_and_keys(inputs)
    q, n_groups = self._queries(queries), keys.shape[1] // self._keys_per_group
    distances = positions_lib.distances(n_groups, self._queries_per_group, self._keys_per_group)
    e = self._projected(distances, keys.dtype)
    k, v = self._keys_and_values(keys)
    n_queries = q.shape[1]
    if self._spec.decodes:
      self.state = n_queries * jnp.ones((), jnp.int32), kv_cache.write(self.state[1], 0, k, v, e[:, ::-1])
      # The last group may still lack queries, but attention takes whole groups only.
      q = jnp.pad(q, ((0, 0), (0, n_groups * self._queries_per_group - n_queries), (0, 0), (0, 0)))
    return self._output(self._attended(q, k, v, e, *inputs[-2:], self.rng)[:, :n_queries], queries)

  def _attended(self, q, k, v, e, context_bias, location_bias, rng):
    """Returns the attention output before the output projection, (B, Q, H, E)."""
    return attention.relative_attention(q, k, v, e, context_bias, location_bias, _rate(self._spec), rng,
                                        self._spec.attention_form)

  def _step(self, q, keys, context_bias, location_bias):
    """Attends from one query (B, 1, H, E); a group's first query comes with the group's keys (B, A, D)."""
    step, cache = self.state
    group, phase = step // self._queries_per_group, step % self._queries_per_group
    first = group * self._keys_per_group

    def with_group(cache):
      rows = kv_cache.distances(first, self._keys_per_group, self._queries_per_group, self._keys_per_group)
      return kv_cache.write(cache, first, *self._keys_and_values(keys),
                            self._projected(rows, keys.dtype))

    if self._queries_per_group == 1:
      cache = with_group(cache)
    else:
      cache = jax.lax.cond(phase == 0, with_group, lambda cache: cache, cache)
    self.state = step + 1, cache
    content, position = (attention.scaled(q[:, 0], bias) for bias in (context_bias, location_bias))
    return kv_cache.attend(cache, first + self._keys_per_group, content, position, phase)

  def _queries_and_keys(self, inputs):
    return (inputs[0], inputs[0]) if self._within_level else inputs[:2]

  def _queries(self, x):
    return _heads(affine(x, *self.weights[1]), self._spec)

  def _keys_and_values(self, x):
    return tuple(_heads(affine(x, *of), self._spec) for of in self.weights[2:4])

  def _projected(self, distances, dtype):
    """Projects distances (P, n), in steps of the finer sequence, to (P, n, H, E)."""
    embedded = positions_lib.sinusoids(self._unit * distances, self._spec.d_model).astype(dtype)
    return _heads(affine(embedded, *self.weights[0]), self._spec)

  def _output(self, out, queries):
    return affine(out.reshape(queries.shape).astype(queries.dtype), *self.weights[4])


class RotaryAttention(base.Layer):
  """Applies causal self-attention with rotary positions (arXiv 2104.09864): (B, L, D) -> (B, L, D).

  Weights are four affine maps, ((w, b), ...), in the order query, key, value, output. Distances are counted in tokens.
  """

  def __init__(self, spec, tokens_per_vector):
    """Creates the layer.

    Args:
      spec: the model's BlockSpec.
      tokens_per_vector: total factor of the level.

    Raises:
      InputError: the head width is odd, but rotation takes pairs.
    """
    if spec.d_model // spec.n_heads % 2:
      raise InputError(f'heads are {spec.d_model // spec.n_heads} wide (d_model {spec.d_model} over {spec.n_heads} '
                       'heads): rotary positions need an even width')
    super().__init__(name=f'RotaryAttention_{spec.n_heads}_heads')
    self._spec = spec
    self._tokens_per_vector = tokens_per_vector

  def init_weights_and_state(self, input_signature):
    self.weights = _affine_maps(4, self._spec.d_model, self.rng)
    if self._spec.decodes:
      self.state = _empty(self._spec, self._spec.capacity(self._tokens_per_vector), input_signature)

  def forward(self, x):
    *maps, output = self.weights
    q, k, v = (_heads(affine(x, *weights), self._spec) for weights in maps)
    n, first = x.shape[1], self.state[0] if self._spec.decodes and x.shape[1] == 1 else 0
    positions = self._tokens_per_vector * (first + jnp.arange(n, dtype=jnp.float32))
    q, k = (positions_lib.rotated(x, positions) for x in (q, k))
    if self._spec.decodes:
      self.state = first + n * jnp.ones((), jnp.int32), kv_cache.write(self.state[1], first, k, v)
    if self._spec.decodes and n == 1:
      q *= float(q.shape[-1])**-0.5
      out = kv_cache.attend(self.state[1], first + 1, q[:, 0])
    else:
      out = attention.rotary_attention(q, k, v, _rate(self._spec), self.rng, self._spec.attention_form)
    return affine(out.reshape(x.shape).astype(x.dtype), *output)


def _empty(spec, capacity, signature, queries_per_group=None):
  """Returns the state before the first call: step 0 and an empty cache for the batch of a signature (B, L, D)."""
  cache = kv_cache.empty(signature.shape[0], spec.n_heads, spec.d_model // spec.n_heads, capacity, signature.dtype,
                         queries_per_group)
  return jnp.zeros((), jnp.int32), cache


class LocalAttention(base.Layer):
  """Applies causal relative attention to a window of the last vectors: (x (B, L, D), biases (H, E) twice) -> (B, L, D).

  Weights and distances are as in `RelativeAttention`; see local_attention.py.
  """

  def __init__(self, spec, window, unit):
    """Creates the layer.

    Args:
      spec: the model's BlockSpec.
      window: vectors that a query sees, itself included.
      unit: tokens per vector.

    Raises:
      InputError: the window is not a whole number above 0.
    """
    checks.check_sizes(window=window)
    super().__init__(n_in=3, name=f'LocalAttention_{spec.n_heads}_heads_{window}')
    self._spec = spec
    self._window = window
    self._unit = unit
    self._capacity = min(window, spec.capacity(unit))

  @property
  def forgets(self):
    """Returns whether its KV cache is shorter than the model's capacity."""
    return self._spec.decodes and self._capacity < self._spec.capacity(self._unit)

  def init_weights_and_state(self, input_signature):
    self.weights = _affine_maps(5, self._spec.d_model, self.rng)
    if self._spec.decodes:
      (batch, *_), dtype = input_signature[0].shape, input_signature[0].dtype
      self.state = jnp.zeros((), jnp.int32), local_attention.empty(
          batch, self._spec.n_heads, self._spec.d_model // self._spec.n_heads, self._capacity, dtype)

  def forward(self, inputs):
    x, *biases = inputs
    *maps, output = self.weights[1:]
    q, k, v = (_heads(affine(x, *weights), self._spec) for weights in maps)
    attend = self._step if self._spec.decodes and x.shape[1] == 1 else self._all
    out = attend(q, k, v, *biases)
    return affine(out.reshape(x.shape).astype(x.dtype), *output)

  def _all(self, q, k, v, *biases):
    e = self._projected(jnp.arange(1 - min(self._window, q.shape[1]), 1), q.dtype)
    if self._spec.decodes:
      self.state = q.shape[1] * jnp.ones((), jnp.int32), local_attention.begun(self.state[1], k, v, e)
    return attention.local_attention(q, k, v, e, *biases, _rate(self._spec), self.rng, self._spec.attention_form)

  def _step(self, q, k, v, *biases):
    number, window = self.state
    e = self._projected(-jnp.minimum(number, self._capacity - 1)[None], q.dtype)[0]
    content, position = (attention.scaled(q[:, 0], bias) for bias in biases)
    window, out = local_attention.step(window, number, content, position, k, v, e)
    self.state = number + 1, window
    return out

  def _projected(self, distances, dtype):
    """Projects distances (n,), in vectors, to (n, H, E)."""
    embedded = positions_lib.sinusoids(self._unit * distances, self._spec.d_model).astype(dtype)
    return _heads(affine(embedded, *self.weights[0]), self._spec)


def _affine_maps(n, d_model, rng):
  """Returns initial weights of n affine maps: ((w (D, D), b (D,)), ...)."""
  shape = (d_model, d_model)
  return tuple(
      tuple(make(s, rng) for make, s, rng in zip((_KERNEL, _BIAS), (shape, shape[1:]), fastmath.random.split(rng)))
      for rng in fastmath.random.split(rng, n))


def _heads(x, spec):
  """Splits vectors into heads: (..., D) -> (..., H, E)."""
  return x.reshape(*x.shape[:-1], spec.n_heads, -1)


def _rate(spec):
  return spec.dropout if spec.mode == 'train' else 0.0



@decodes
def CausalRelativeAttention(spec, tokens_per_vector):
  """Returns the attention of a stack's blocks (paper section 2): (x (B, L, D), biases (H, E) twice) -> (B, L, D).

  Args:
    spec: the model's BlockSpec.
    tokens_per_vector: total shorten factor of the level.
  """
  return RelativeAttention(spec, tokens_per_vector)


@decodes
def CausalRotaryAttention(spec, tokens_per_vector):
  """Returns attention with rotary instead of relative positions, a third fewer products: (B, L, D) -> (B, L, D).

  Args:
    spec: the model's BlockSpec.
    tokens_per_vector: total shorten factor of the level.
  """
  return RotaryAttention(spec, tokens_per_vector)


@decodes
def CausalLocalAttention(spec, tokens_per_vector, window=256):
  """Returns attention to the last vectors, at cost linear in L: (x (B, L, D), biases (H, E) twice) -> (B, L, D).

  Args:
    spec: the model's BlockSpec.
    tokens_per_vector: total shorten factor of the level.
    window: vectors that each vector sees, itself included.
  """
  return LocalAttention(spec, window, unit=tokens_per_vector)
