"""Tests shortening, upsampling and the model's shift against results by hand on small numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trax import layers as tl
from trax import shapes

import trax_hourglass as th
from trax_hourglass.layers.attention import RelativeBiases
from trax_hourglass.layers import blocks
from trax_hourglass.layers.spec import BlockSpec

SPEC = BlockSpec(2, 3, 1, 0.0, None, tl.Relu, 'elementwise', 'eval', 1, RelativeBiases(2, 1))


def apply(layer, *inputs, weights=None):
  inputs = inputs[0] if len(inputs) == 1 else inputs
  layer.init(shapes.signature(inputs))
  if weights is not None:
    layer.weights = weights
  return np.asarray(layer(inputs))


def test_average_shortening_by_hand():
  x = jnp.arange(12.0).reshape(1, 6, 2)
  np.testing.assert_array_equal(apply(th.ShortenByAverage(SPEC, 3, 1), x), [[[2, 3], [8, 9]]])


def test_linear_shortening_sees_its_group_in_order():
  x = jnp.arange(8.0).reshape(1, 4, 2)
  layer = th.ShortenByLinear(SPEC, 2, 1)
  layer.init(shapes.signature(x))
  w = np.array([[1, 0], [10, 0], [100, 0], [1000, 1]], np.float32)
  weights = jax.tree.map(lambda a: jnp.asarray(w) if a.ndim == 2 else jnp.zeros_like(a), layer.weights)
  layer.weights = weights
  np.testing.assert_array_equal(layer(x), [[[3210, 3], [7654, 7]]])


def test_repeat_upsampling_by_hand():
  x = jnp.array([[[1.0, 2], [3, 4]]])
  np.testing.assert_array_equal(apply(th.UpsampleByRepeat(SPEC, 2, 1), x), [[[1, 2], [1, 2], [3, 4], [3, 4]]])


def test_zeros_upsampling_by_hand():
  np.testing.assert_array_equal(apply(th.UpsampleByNothing(SPEC, 3, 1), jnp.ones((1, 2, 2))), np.zeros((1, 6, 2)))


def test_linear_upsampling_has_one_map_per_position():
  x = jnp.array([[[1.0, 2], [3, 4]]])
  layer = th.UpsampleByLinear(SPEC, 2, 1)
  layer.init(shapes.signature(x))
  w = np.array([[1, 0, 0, 0], [0, 1, 0, 10]], np.float32)
  layer.weights = jax.tree.map(lambda a: jnp.asarray(w) if a.ndim == 2 else jnp.zeros_like(a), layer.weights)
  np.testing.assert_array_equal(layer(x), [[[1, 2], [0, 20], [3, 4], [0, 40]]])


def test_shifted_averages_hold_only_the_first_token_of_their_group():
  # Factor 3, so shift by 2: coarse vector i averages tokens 3i-2 .. 3i and is used from position 3i on.
  x = jnp.arange(1.0, 7)[None, :, None] * jnp.ones(2)
  y = apply(tl.Serial(tl.ShiftRight(2), th.ShortenByAverage(SPEC, 3, 1)), x)
  np.testing.assert_allclose(y[0, :, 0], [(0 + 0 + 1) / 3, (2 + 3 + 4) / 3], rtol=1e-6)


@pytest.mark.parametrize('factor', [2, 3])
def test_shapes_of_attention_resampling(factor):
  fine, coarse = jnp.ones((2, 6, 2)), jnp.ones((2, 6 // factor, 2))
  assert apply(th.ShortenByAttention(SPEC, factor, 1), fine).shape == coarse.shape
  assert apply(th.UpsampleByAttention(SPEC, factor, 1), coarse, fine).shape == fine.shape


def test_distances_in_tokens_differ_from_vectors_only_below_the_top():
  random = np.random.RandomState(0)
  coarse, fine = (jnp.asarray(random.randn(1, n, 2), jnp.float32) for n in (3, 6))
  results = {}
  for unit in ('vectors', 'tokens'):
    for tokens_per_vector in (1, 4):
      layer = th.UpsampleByAttention(SPEC, 2, tokens_per_vector, distances_in=unit)
      layer.init(shapes.signature((coarse, fine)), rng=jax.random.PRNGKey(0))
      layer.weights = jax.tree.map(lambda w: jnp.cos(jnp.arange(w.size, dtype=w.dtype)).reshape(w.shape), layer.weights)
      results[unit, tokens_per_vector] = np.asarray(layer((coarse, fine)))
  np.testing.assert_array_equal(results['vectors', 1], results['tokens', 1])
  np.testing.assert_array_equal(results['vectors', 1], results['vectors', 4])
  assert np.abs(results['vectors', 4] - results['tokens', 4]).max() > 1e-4


def test_feed_forward_by_hand():
  # d_model 2, d_ff 3, Relu; input (1, 3) is normalised to (-1, 1).
  layer = blocks.FeedForward(SPEC)
  x = jnp.array([[[1.0, 3]]])
  layer.init(shapes.signature(x))
  first, second = np.array([[1, 0, -2], [2, -1, 0]], np.float32), np.array([[1, 0], [0, 1], [1, 1]], np.float32)
  matrices = {(2, 3): first, (3, 2): second}
  layer.weights = jax.tree.map(lambda w: jnp.asarray(matrices[w.shape]) if w.ndim == 2 else
                               (w if w.shape == (2,) and (w == 1).all() else jnp.zeros_like(w)), layer.weights)
  # Hidden: relu((-1, 1) @ first) = relu(1, -1, 2) = (1, 0, 2); out: (3, 2); residual: (4, 5).
  np.testing.assert_allclose(layer(x), [[[4, 5]]], rtol=1e-5)
