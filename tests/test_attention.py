"""Fast attention against its definition, in values and gradients."""


from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from trax_hourglass import attention
from trax_hourglass import dropout
from trax_hourglass import keys

B, H, E = 2, 3, 5
GEOMETRIES = [(1, 1), (1, 3), (3, 1), (1, 2), (2, 1)]


def inputs(groups, queries_per_group, keys_per_group, seed=0):
  """Random arguments of relative_attention, whole blocks long, and the map from distance to its embedding."""
  random = np.random.RandomState(seed)
  size = attention.block_groups(groups, queries_per_group)
  groups = -(-groups // size) * size
  q, k, v = (random.randn(B, n, H, E) for n in (groups * queries_per_group,) + (groups * keys_per_group,) * 2)
  distances = attention.distances(groups, queries_per_group, keys_per_group)
  table = random.randn(2 * distances.size + 1, H, E)
  middle = table.shape[0] // 2
  arrays = q, k, v, table[distances + middle], random.randn(H, E), random.randn(H, E)
  return [jnp.asarray(a, jnp.float32) for a in arrays], lambda r: table[r + middle]


@settings(max_examples=25)
@given(groups=st.integers(1, 23), geometry=st.sampled_from(GEOMETRIES))
def test_equals_the_definition(groups, geometry):
  arrays, embed = inputs(groups, *geometry)
  q, k, v, _, c, l = map(np.asarray, arrays)
  expected = reference.relative_attention(q, k, v, embed, c, l, *geometry)
  np.testing.assert_allclose(attention.relative_attention(*arrays), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_gradients_equal_those_of_the_whole_matrix(geometry):
  arrays, _ = inputs(13, *geometry)

  def whole(q, k, v, e, c, l):
    """The definition as one Q x K matrix, so that JAX can differentiate it."""
    queries_per_group, keys_per_group = geometry
    i, j = np.arange(q.shape[1])[:, None], np.arange(k.shape[1])[None, :]
    group, place = i // queries_per_group, i % queries_per_group
    column = j - keys_per_group * group + keys_per_group * (q.shape[1] // queries_per_group - 1)
    e = e[place, np.minimum(column, e.shape[1] - 1)]
    scores = jnp.einsum('bqhe,bkhe->bhqk', q + c[None, None], k) + jnp.einsum('bqhe,qkhe->bhqk', q + l[None, None], e)
    visible = (j // keys_per_group <= group)[None, None]
    return jnp.einsum('bhqk,bkhe->bqhe', jax.nn.softmax(jnp.where(visible, scores / np.sqrt(E), -1e9)), v)

  probe = jnp.asarray(np.random.RandomState(1).randn(*arrays[0].shape), jnp.float32)
  fast, slow = (jax.grad(lambda *a, f=f: (f(*a) * probe).sum(), argnums=range(6))(*arrays)  # pylint: disable=cell-var-from-loop
                for f in (attention.relative_attention, whole))
  for got, expected in zip(fast, slow):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize('geometry', [(1, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize('block', [2, 4, 512])
def test_dropout_is_the_same_mask_whatever_the_blocks(geometry, block, monkeypatch):
  monkeypatch.setattr(attention, '_BLOCK_QUERIES', block)
  attention.relative_attention.clear_cache()
  arrays, embed = inputs(12, *geometry)
  q, k, v, _, c, l = map(np.asarray, arrays)
  key, rate = jax.random.PRNGKey(5), 0.3
  rows = jnp.arange(B * q.shape[1]).reshape(B, -1, 1)
  keep = np.stack([dropout.keep_mask(head, rows, jnp.arange(k.shape[1])[None, None], rate)
                   for head in keys.split(key, H)])
  expected = reference.relative_attention(q, k, v, embed, c, l, *geometry, keep=keep, rate=rate)
  got = attention.relative_attention(*arrays, rate=rate, key=key)
  attention.relative_attention.clear_cache()
  np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('block', [1, 3, 8])
def test_long_sequences_loop_over_blocks(block, monkeypatch):
  arrays, _ = inputs(48, 1, 1)
  expected = attention.relative_attention(*arrays)
  monkeypatch.setattr(attention, '_BLOCK_QUERIES', block)
  attention.relative_attention.clear_cache()
  got = attention.relative_attention(*arrays)
  attention.relative_attention.clear_cache()
  np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_distances_by_hand():
  # Upsampling by 2: queries 0..5, keys at 0, 2, 4. Rows: first and second query of a group.
  np.testing.assert_array_equal(attention.distances(3, 2, 1), [[-4, -2, 0, 2], [-5, -3, -1, 1]])
  # Shortening by 2: queries at 0, 2; keys 0..3, then one more group in the future.
  np.testing.assert_array_equal(attention.distances(2, 1, 2), [[-2, -1, 0, 1, 2, 3]])


def test_skew_by_hand():
  x = jnp.arange(12).reshape(3, 4)
  # Row 2 stays, row 1 moves left by 1, row 0 by 2; what runs over comes from the next row and is masked later.
  np.testing.assert_array_equal(attention._skew(x, 1), [[2, 3, 4], [5, 6, 7], [8, 9, 10]])


def test_sinusoids_by_hand():
  np.testing.assert_allclose(attention.sinusoids(np.array([-3, 7]), 6),
                             [reference.sinusoid(-3, 6), reference.sinusoid(7, 6)], rtol=1e-5, atol=1e-6)


def test_scores_of_all_heads_never_exist_at_once():
  length = 512
  arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in
            [(1, length, 8, 16)] * 3 + [(1, length + 1, 8, 16), (8, 16), (8, 16)]]
  loss = lambda *a: attention.relative_attention(*a).sum()
  compiled = jax.jit(jax.grad(loss, argnums=range(6))).lower(*arrays).compile()
  one_matrix = 4 * length**2
  # The plain form keeps content, position and softmax of 8 heads: 24 matrices; 6.2 were measured here.
  assert compiled.memory_analysis().temp_size_in_bytes < 8 * one_matrix


def test_refuses_lengths_that_are_not_whole_groups():
  arrays, _ = inputs(4, 1, 1)
  arrays[0] = arrays[0][:, :3]
  with pytest.raises(ValueError, match='whole blocks'):
    attention.relative_attention(*arrays)
