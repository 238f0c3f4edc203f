"""Shortens and upsamples at boundaries: groups of any size, averaged into a fixed number of slots.

A group's coarse vector is the mean of the group's vectors, computed when the group ends. The coarse vector serves all
positions from that end to the next group's end. K - 1 zeros precede the first vector. With a boundary at every K-th
token, groups are therefore those of a fixed shortening, shifted by K - 1.

In mode 'predict' the levels below run only when a group ends. Sequences of a batch end their groups at different steps.
Each sequence has its own state, and sequences without an end keep theirs.

Letters: B batch, n vectors of a call, K shorten factor, S slots, D width, N capacity in tokens.
"""

import jax
import jax.numpy as jnp
import trax.layers as tl
from trax.shapes import ShapeDtype

from trax_hourglass.layers import boundaries
from trax_hourglass.layers.core import Dense
from trax_hourglass.layers.core import PositionalDropout
from trax_hourglass.layers.group_decoding import run_if
from trax_hourglass.layers.plugins import decodes
from trax_hourglass.runtime.errors import InputError


@decodes
def ShortenAtBoundaries(spec, shorten_factor, tokens_per_vector):
  """Averages each group: (x (B, L, D), slot of each vector (B, L)) -> (B, L / K, D).

  The first group includes K - 1 zeros.

  Args:
    spec: the model's BlockSpec.
    shorten_factor: K.
    tokens_per_vector: total factor of the finer level, 1.
  """
  del spec, tokens_per_vector
  return tl.Fn('AverageOfGroups', lambda x, slot: _means(x, slot, x.shape[1] // shorten_factor, shorten_factor))


@decodes
def UpsampleFromBoundaries(spec, shorten_factor, tokens_per_vector):
  """Maps each group's slot by one D x D map per place in the group: (x' (B, S, D), index (B, L)) -> (B, L, D).

  The index is slot * K + place; places from K - 1 on share a map, and an index below 0 gives zeros.

  Args:
    spec: the model's BlockSpec.
    shorten_factor: K.
    tokens_per_vector: total factor of the finer level, 1.
  """
  del tokens_per_vector
  def pick(x, index):
    x = x.reshape(x.shape[0], -1, x.shape[2] // shorten_factor)
    return jnp.where(index[..., None] < 0, 0, jnp.take_along_axis(x, jnp.maximum(index, 0)[..., None], axis=1))
  return tl.Serial(
      Dense(shorten_factor * spec.d_model),
      PositionalDropout(spec.dropout, mode=spec.mode),
      tl.Fn('Pick', pick),
      name='UpsampleFromBoundaries',
  )


ShortenAtBoundaries.at_boundaries = UpsampleFromBoundaries.at_boundaries = True


class AtBoundaries(tl.Serial):
  """Shortens, applies the deeper levels and upsamples: (x (B, n, D), tokens (B, n)) -> (B, n, D).

  The tokens are the model's shifted inputs: the first is the start token.
  """

  def __init__(self, spec, shorten_factor, rule, shorten, deeper, upsample):
    """Creates the layer.

    Args:
      spec: BlockSpec of the finer level.
      shorten_factor: K.
      rule: rule that ends groups, see boundaries.py.
      shorten: layer as from `ShortenAtBoundaries`; mode 'predict' assumes a mean.
      deeper: layers (B, S, D) -> (B, S, D).
      upsample: layer as from `UpsampleFromBoundaries`.

    Raises:
      InputError: mode 'predict' with attention whose cache is a window. A sequence's first call brings slots without a
        group, for which a window would drop groups.
    """
    super().__init__(shorten, tl.Serial(*deeper), upsample, name='AtBoundaries')
    if any(getattr(layer, 'forgets', False) for layer in _all_layers(self.sublayers[1])):
      raise InputError("CausalLocalAttention below boundaries has no mode 'predict' unless it sees all groups: set "
                       'CausalLocalAttention.window to as many as there is room for, or shortened_attention to '
                       '@CausalRelativeAttention')
    self._n_in, self._n_out = 2, 1  # Not those of the sublayers in series.
    self._spec, self._factor, self._rule = spec, shorten_factor, rule

  def init_weights_and_state(self, signature):
    x, tokens = signature
    shorten, deeper, upsample = self.sublayers
    batch, length, width = x.shape
    n_slots = max(1, length // self._factor)
    coarse, index = ShapeDtype((batch, n_slots, width), x.dtype), ShapeDtype((batch, length), jnp.int32)
    one = ShapeDtype((1, 1, width), x.dtype) if self._spec.decodes else coarse
    inits = [layer.init(inputs, use_cache=True) for layer, inputs in (
        (shorten, (ShapeDtype((batch, n_slots * self._factor, width), x.dtype), index)), (deeper, one),
        (upsample, (coarse, index)))]
    self.weights, state = zip(*inits)
    if self._spec.decodes:
      of_each = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape)), state[1])
      state = self._memory(batch, width, x.dtype), of_each, state[2]
    self.state = state

  def _memory(self, batch, width, dtype):
    """Returns (step, all tokens (B, N), sum (B, D), number (B,), ended groups (B,), place (B,), outputs (B, K, D)).

    Sum and number are of the vectors since the last end, and place counts tokens since then. Outputs are the last
    ended group's, at each place.
    """
    zeros = lambda *shape, dtype=jnp.int32: jnp.zeros((batch, *shape), dtype)
    return (jnp.zeros((), jnp.int32), zeros(self._spec.max_length), zeros(width, dtype=jnp.float32),
            zeros(), zeros(), zeros(), zeros(self._factor, width, dtype=dtype))

  def forward(self, inputs):
    x, tokens = inputs
    if self._spec.decodes:
      return self._step(x, tokens) if x.shape[1] == 1 else self._first(x, tokens)
    found = boundaries.groups(boundaries.ends(self._rule, tokens, self._factor), x.shape[1] // self._factor)
    coarse = self._run(0, (x, found.slot))
    return self._run(2, (self._run(1, coarse), self._index(found.last, found.place)))

  def _run(self, number, inputs):
    layer = self.sublayers[number]
    out, state = layer.pure_fn(inputs, self.weights[number], self.state[number],
                               jax.random.fold_in(self.rng, number), use_cache=True)
    self.state = (*self.state[:number], state, *self.state[number + 1:])
    return out

  def _index(self, last, place):
    return jnp.where(last < 0, -1, last * self._factor + jnp.minimum(place, self._factor - 1))

  def _deeper(self, coarse, states):
    """Returns the deeper levels' (B, S, D) and new states of mode 'predict', each sequence by itself."""
    weights = self.weights[1]  # Closed over, because other layers may share them.
    def run(one, state):
      out, state = self.sublayers[1].pure_fn(one[None], weights, state, self.rng, use_cache=True)
      return out[0], state
    if coarse.shape[0] == 1:  # A vmap would copy the caches for every write.
      out, state = run(coarse[0], jax.tree.map(lambda leaf: leaf[0], states))
      return out[None], jax.tree.map(lambda leaf: leaf[None], state)
    return jax.vmap(run)(coarse, states)

  def _serving(self, coarse):
    """Returns the outputs (B, K, D) of a coarse vector (B, 1, D) at each place."""
    index = jnp.broadcast_to(jnp.arange(self._factor), (coarse.shape[0], self._factor))
    return self.sublayers[2].pure_fn((coarse, index), self.weights[2], self.state[2], self.rng, use_cache=True)[0]

  def _ends(self, memory, tokens):
    """Returns all tokens including this call's, (B, N), and the rule's result for this call's, (B, n)."""
    step, before = memory[:2]
    all_tokens = jax.lax.dynamic_update_slice_in_dim(before, tokens.astype(jnp.int32), step, axis=1)
    found = boundaries.ends(self._rule, all_tokens, self._factor)
    return all_tokens, jax.lax.dynamic_slice_in_dim(found, step, tokens.shape[1], axis=1)

  def _step(self, x, tokens):
    """Processes one vector of each sequence."""
    memory, states, _ = self.state
    step, _, total, number, n_ended, place, serving = memory
    all_tokens, found = self._ends(memory, tokens)
    found = found[:, 0] & (n_ended < self._spec.capacity(self._factor))
    total, number = total + x[:, 0].astype(jnp.float32), number + 1

    def run(kept):
      serving, states = kept
      of_mean = number + jnp.where(n_ended == 0, self._factor - 1, 0)
      coarse, new = self._deeper((total / of_mean[:, None]).astype(x.dtype)[:, None], states)
      if len(found) == 1:
        return self._serving(coarse).astype(serving.dtype), new
      keep = lambda a, b: jnp.where(found.reshape(-1, *[1] * (a.ndim - 1)), a, b)
      return jax.tree.map(keep, (self._serving(coarse).astype(serving.dtype), new), (serving, states))

    serving, states = run_if(found.any(), run, (serving, states))
    place = jnp.where(found, 0, place + 1)
    self.state = (step + 1, all_tokens, jnp.where(found[:, None], 0, total), jnp.where(found, 0, number),
                  n_ended + found, place, serving), states, self.state[2]
    return jnp.take_along_axis(serving, jnp.minimum(place, self._factor - 1)[:, None, None], axis=1).astype(x.dtype)

  def _first(self, x, tokens):
    """Processes the beginning of each sequence."""
    memory, states, _ = self.state
    n = x.shape[1]
    all_tokens, found = self._ends(memory, tokens)
    n_slots = min(n, self._spec.capacity(self._factor))
    found = boundaries.groups(found, n_slots)
    n_ended = found.last[:, -1] + 1
    coarse, states = self._deeper(_means(x, found.slot, n_slots, self._factor), states)
    # Layers count the vectors of their calls. Slots without a group do not count: the next group takes the first.
    states = jax.tree.map(lambda leaf: n_ended if leaf.ndim == 1 and leaf.dtype == jnp.int32 else leaf, states)
    out = self._run(2, (coarse, self._index(found.last, found.place)))
    is_open = found.slot == n_ended[:, None]
    at_last = jnp.take_along_axis(coarse, jnp.maximum(n_ended - 1, 0)[:, None, None], axis=1)
    serving = jnp.where((n_ended > 0)[:, None, None], self._serving(at_last), 0).astype(memory[6].dtype)
    self.state = (memory[0] + n, all_tokens, jnp.where(is_open[..., None], x, 0).astype(jnp.float32).sum(axis=1),
                  is_open.sum(axis=1), n_ended, found.place[:, -1], serving), states, self.state[2]
    return out.astype(x.dtype)


def _all_layers(layer):
  """Yields a layer and all its sublayers, recursively."""
  yield layer
  for part in (*layer.sublayers, *([layer.block] if hasattr(layer, 'block') else [])):
    yield from _all_layers(part)


def _means(x, slot, n_slots, factor):
  """Returns the mean of each slot's vectors, (B, S, D), summed in float32; the first slot includes K - 1 zeros."""
  one = lambda vectors, slots: jax.ops.segment_sum(vectors.astype(jnp.float32), slots, num_segments=n_slots)
  sums = jax.vmap(one)(x, slot)
  numbers = jax.vmap(one)(jnp.ones(slot.shape), slot).at[:, 0].add(factor - 1)
  return (sums / jnp.maximum(numbers, 1)[..., None]).astype(x.dtype)
