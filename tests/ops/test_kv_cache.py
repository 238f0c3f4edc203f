"""Tests cached attention as plain functions: equal to its definition at every step, across blocks, for all three
geometries.
"""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import reference

from trax_hourglass.ops import kv_cache

B, H, E = 2, 3, 5


def table(distances):
  """Returns embeddings (P, n, H, E) of distances (P, n), of fixed random values."""
  values = np.random.RandomState(9).randn(200, H, E)
  return jnp.asarray(values[np.asarray(distances) + 100], jnp.float32)


@pytest.fixture
def first_block(monkeypatch):
  """Sets the number of keys in the first block."""
  return lambda n: monkeypatch.setattr(kv_cache, '_FIRST_BLOCK', n)


@hypothesis.settings(max_examples=8, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.sampled_from([(1, 1), (1, 3), (2, 1), (1, 2), (3, 1)]), st.integers(1, 6), st.integers(2, 7),
                  st.data())
def test_cached_steps_equal_the_definition(first_block, geometry, block, n_groups, data):
  first_block(block)
  per_query, per_key = geometry
  n_before = data.draw(st.integers(0, n_groups), 'groups written at once')
  n_queries, n_keys = n_groups * per_query, n_groups * per_key
  random = np.random.RandomState(data.draw(st.integers(0, 99), 'seed'))
  q = random.randn(B, n_queries, H, E).astype(np.float32)
  k, v = random.randn(2, B, n_keys, H, E).astype(np.float32)
  context, location = random.randn(2, H, E).astype(np.float32)
  embed = lambda distance: np.asarray(table([[distance]]))[0, 0]
  expected = reference.relative_attention(q, k, v, embed, context, location, per_query, per_key)

  write, attend = jax.jit(kv_cache.write), jax.jit(kv_cache.attend)
  cache = kv_cache.empty(B, H, E, n_keys, jnp.float32, per_query)
  if n_before:
    n = n_before * per_key
    cache = write(cache, 0, k[:, :n], v[:, :n], table(kv_cache.distances(0, n, per_query, per_key)))
  for i in range(n_queries):
    group, phase = divmod(i, per_query)
    here = slice(group * per_key, (group + 1) * per_key)
    if phase == 0 and group >= n_before:
      rows = kv_cache.distances(here.start, per_key, per_query, per_key)
      cache = write(cache, here.start, k[:, here], v[:, here], table(rows))
    content, position = ((q[:, i] + bias) / np.sqrt(E) for bias in (context, location))
    got = attend(cache, here.stop, content, position, phase)
    np.testing.assert_allclose(got, expected[:, i], rtol=2e-5, atol=2e-5)


def test_cache_blocks_double_up_to_the_capacity(first_block):
  first_block(4)
  keys, values, distances = kv_cache.empty(B, H, E, 19, jnp.bfloat16, 3)
  assert [block.shape for block in keys] == [(B, H, n, E) for n in (4, 4, 8, 3)] and keys[0].dtype == jnp.bfloat16
  assert [block.shape for block in values] == [block.shape for block in keys]
  assert [block.shape for block in distances] == [(3, H, n, E) for n in (4, 4, 8, 3)]
  assert kv_cache.empty(B, H, E, 19, jnp.float32)[2] is None


def test_distances_by_hand():
  # Shortening by 3: the last key that a query sees is 2 ahead of it, then 1, 0, -1 ...
  np.testing.assert_array_equal(kv_cache.distances(0, 4, 1, 3), [[2, 1, 0, -1]])
  # Upsampling by 2, from the second key on: the key lies 2, or 3, behind the queries of the group.
  np.testing.assert_array_equal(kv_cache.distances(1, 2, 2, 1), [[-2, -4], [-3, -5]])
