"""Tests the affine map in both forms, and the layer norm beside Trax's, with gradients."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trax import layers as tl
from trax import shapes

from trax_hourglass.layers import core
from trax_hourglass.ops import dense


def normal(*shape, seed=0):
  return jnp.float32(np.random.RandomState(seed).randn(*shape))


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
@pytest.mark.parametrize('shape', [(3, 5), (2, 7, 5), (2, 3, 4, 5)])
def test_affine_maps_equal_plain_ones(platform, shape, monkeypatch):
  """Tests values and gradients of flattened arrays, and of arrays and sums as on a TPU."""
  monkeypatch.setattr(dense, 'sharding', types.SimpleNamespace(platform=lambda: platform))
  x, w, b = normal(*shape), normal(5, 6, seed=1), normal(6, seed=2)
  plain = lambda x, w, b: x @ w + b
  both = [jax.value_and_grad(lambda *args, f=f: jnp.sin(f(*args)).sum(), argnums=(0, 1, 2))(x, w, b)
          for f in (dense.affine, plain)]
  for got, expected in zip(*map(jax.tree.leaves, both), strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('mean, tolerance', [(0, 2e-6), (1, 2e-6), (30, 3e-4)])
def test_layer_norm_equals_traxs(mean, tolerance):
  """Tests rows whose mean is many of their standard deviations too, where one pass over x loses digits."""
  x = normal(2, 7, 64) + mean
  results = []
  for layer in core.LayerNorm(), tl.LayerNorm():
    layer.init(shapes.signature(x))
    weights = normal(64, seed=1), normal(64, seed=2)
    run = lambda x, weights, layer=layer: layer.pure_fn(x, weights, (), None)[0]
    gradients = jax.grad(lambda *args, f=run: jnp.sin(f(*args)).sum(), argnums=(0, 1))(x, weights)
    results.append((run(x, weights), *gradients))
  for got, expected in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(got, expected, rtol=10 * tolerance, atol=10 * tolerance)
  np.testing.assert_allclose(results[0][0], results[1][0], rtol=tolerance, atol=tolerance)


def test_layer_norm_of_constant_rows_is_finite():
  layer = core.LayerNorm()
  x = jnp.full((1, 3, 64), 7.3)
  layer.init(shapes.signature(x))
  value, gradient = jax.value_and_grad(lambda x: layer(x).sum())(x)
  assert np.isfinite(value) and np.isfinite(gradient).all()
