"""Tests hash dropout: dropped share, correlations, shared axes, no dropout in eval mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trax import shapes

from trax_hourglass.layers import core
from trax_hourglass.ops import dropout
from trax_hourglass.ops import prng

ROWS, COLUMNS = 2048, 1024


def centred(key, rate):
  """Returns 1 for dropped and 0 for kept positions, minus the rate."""
  keep = dropout.keep_mask(key, jnp.arange(ROWS)[:, None], jnp.arange(COLUMNS)[None], rate)
  return 1.0 - np.asarray(keep, np.float64) - rate


@pytest.mark.parametrize('rate', [0.01, 0.1, 0.5, 0.9])
def test_dropped_share_and_correlations_are_as_expected(rate):
  dropped = centred(jax.random.PRNGKey(3), rate)
  variance = rate * (1 - rate)
  # 5 standard errors: a random key would fail once in two million; keys here are fixed.
  assert abs(dropped.mean()) < 5 * np.sqrt(variance / dropped.size)
  for a, b in [(dropped[1:], dropped[:-1]), (dropped[:, 1:], dropped[:, :-1]), (dropped[:, 64:], dropped[:, :-64]),
               (dropped[1:, 1:], dropped[:-1, :-1]), (dropped[512:], dropped[:-512])]:
    assert abs((a * b).mean()) < 5 * variance / np.sqrt(a.size)
  # Rows and columns spread like sums of independent elements: chi-square within 5 standard errors.
  assert abs(dropped.sum(axis=1).var() / (COLUMNS * variance) - 1) < 5 * np.sqrt(2 / ROWS)
  assert abs(dropped.sum(axis=0).var() / (ROWS * variance) - 1) < 5 * np.sqrt(2 / COLUMNS)


def test_keys_give_independent_masks():
  rate = 0.3
  many = prng.split(jax.random.PRNGKey(0), 4)
  masks = [centred(key, rate) for key in [*many, *prng.split(many[0], 4)]]
  for i, a in enumerate(masks):
    for b in masks[:i]:
      assert abs((a * b).mean()) < 5 * rate * (1 - rate) / np.sqrt(a.size)


def test_split_keys_are_distinct():
  split = np.asarray(prng.split(jax.random.PRNGKey(1), 1000))
  assert split.shape == (1000, 2) and split.dtype == np.uint32
  of_each = np.concatenate([prng.split(key, 30) for key in split[:30]])
  assert len({tuple(key) for key in [*split, *of_each]}) == 1000 + 30 * 30
  np.testing.assert_array_equal(split[:7], prng.split(jax.random.PRNGKey(1), 7))


def run(x, mode='train', **options):
  layer = core.PositionalDropout(0.25, mode=mode, **options)
  layer.init(shapes.signature(x))
  return np.asarray(layer(x, rng=jax.random.PRNGKey(0)))


def test_kept_values_are_scaled():
  assert set(np.unique(run(jnp.ones((7, 11, 13))))) == {0.0, np.float32(1 / 0.75)}


def test_shared_axes_share_one_mask():
  y = run(jnp.ones((5, 31, 37)), shared_axes=(0, 1))
  assert (y == y[:1, :1]).all() and 0 < (y == 0).mean() < 1
  y = run(jnp.ones((5, 31, 37)), shared_axes=(-2,))
  assert (y == y[:, :1]).all() and not (y == y[:1]).all()


def test_eval_mode_drops_nothing():
  x = jnp.arange(6.0).reshape(1, 2, 3)
  np.testing.assert_array_equal(run(x, mode='eval'), x)


@pytest.mark.parametrize('rate', [-0.1, 1.0, 2.0])
def test_invalid_rates_are_refused(rate):
  with pytest.raises(ValueError, match='dropout'):
    core.PositionalDropout(rate)
