"""Tests fast attention against its definition, in values and gradients."""

import functools

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import sampling
from tests.helpers import reference
from tests.helpers import attention_inputs

from trax_hourglass.ops import attention
from trax_hourglass.ops import dropout
from trax_hourglass.ops import positions as positions_lib
from trax_hourglass.ops import prng
from trax_hourglass.ops import tiled_attention



@pytest.fixture
def small_tiles(monkeypatch):
  """Sets a small tile, so that short sequences take many tiles."""
  def set_size(block, span):
    monkeypatch.setattr(tiled_attention, '_BLOCK_QUERIES', block)
    monkeypatch.setattr(tiled_attention, '_SPAN_KEYS', span)
    tiled_attention.attend.clear_cache()
  yield set_size
  tiled_attention.attend.clear_cache()


def whole(q, k, v, e, c, l, geometry, keep=None, rate=0.0):
  """Computes attention as one Q x K matrix, so that JAX can differentiate it; keep (H, B, Q, K)."""
  queries_per_group, keys_per_group = geometry
  i, j = np.arange(q.shape[1])[:, None], np.arange(k.shape[1])[None, :]
  group, place = i // queries_per_group, i % queries_per_group
  column = j - keys_per_group * group + keys_per_group * (q.shape[1] // queries_per_group - 1)
  e = e[place, np.minimum(column, e.shape[1] - 1)]
  scores = jnp.einsum('bqhe,bkhe->bhqk', q + c[None, None], k) + jnp.einsum('bqhe,qkhe->bhqk', q + l[None, None], e)
  visible = (j // keys_per_group <= group)[None, None]
  weights = jax.nn.softmax(jnp.where(visible, scores / np.sqrt(attention_inputs.E), -1e9))
  if keep is not None:
    weights = jnp.where(keep.swapaxes(0, 1), weights / (1 - rate), 0)
  return jnp.einsum('bhqk,bkhe->bqhe', weights, v)


def masks(key, rate, n_queries, n_keys):
  """Returns the dropout masks of all heads as whole matrices (H, B, Q, K)."""
  rows = jnp.arange(attention_inputs.B * n_queries).reshape(attention_inputs.B, -1, 1)
  return np.stack([
      dropout.keep_mask(head, rows,
                        jnp.arange(n_keys)[None, None], rate) for head in prng.split(key, attention_inputs.H)
  ])


@settings(max_examples=sampling.examples(12, 60))
@given(groups=st.integers(1, 23), geometry=st.sampled_from(attention_inputs.GEOMETRIES))
def test_attention_equals_the_definition(groups, geometry):
  arrays, embed = attention_inputs.inputs(groups, *geometry)
  q, k, v, _, c, l = map(np.asarray, arrays)
  expected = reference.relative_attention(q, k, v, embed, c, l, *geometry)
  np.testing.assert_allclose(attention.relative_attention(*arrays), expected, rtol=2e-5, atol=2e-5)


@settings(max_examples=sampling.examples(6, 40))
@given(groups=st.integers(1, 23), geometry=st.sampled_from(attention_inputs.GEOMETRIES),
       rate=st.sampled_from([0.0, 0.3]),
       tile=st.sampled_from([(256, 512), (4, 8), (8, 4), (3, 5), (1, 1), (4, 2)]))
def test_gradients_equal_those_of_the_full_score_matrix(groups, geometry, rate, tile):
  arrays, _ = attention_inputs.inputs(groups, *geometry)
  key = jax.random.PRNGKey(5)
  keep = masks(key, rate, arrays[0].shape[1], arrays[1].shape[1]) if rate else None
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tiled_attention, '_BLOCK_QUERIES', tile[0])
    patch.setattr(tiled_attention, '_SPAN_KEYS', tile[1])
    tiled_attention.attend.clear_cache()
    fast = attention_inputs.gradients(functools.partial(attention.relative_attention, rate=rate, key=key), arrays)
  tiled_attention.attend.clear_cache()
  slow = attention_inputs.gradients(lambda *a: whole(*a, geometry, keep, rate), arrays)
  for got, expected in zip(fast, slow):
    # Relative to the largest of each array: elements that nearly cancel carry its rounding.
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize('geometry', [(1, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize('tile', [(2, 4), (4, 3), (512, 512)])
def test_dropout_mask_does_not_depend_on_the_tiles(geometry, tile, small_tiles):
  small_tiles(*tile)
  arrays, embed = attention_inputs.inputs(12, *geometry)
  q, k, v, _, c, l = map(np.asarray, arrays)
  key, rate = jax.random.PRNGKey(5), 0.3
  keep = masks(key, rate, q.shape[1], k.shape[1])
  expected = reference.relative_attention(q, k, v, embed, c, l, *geometry, keep=keep, rate=rate)
  got = attention.relative_attention(*arrays, rate=rate, key=key)
  np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_all_heads_at_once_equal_one_after_the_other(small_tiles, monkeypatch):
  """Runs the accelerators' loop over tiles on the CPU."""
  small_tiles(4, 8)
  arrays, _ = attention_inputs.inputs(13, 1, 3)
  function = functools.partial(attention.relative_attention, rate=0.3, key=jax.random.PRNGKey(5))
  one_by_one = [function(*arrays), *attention_inputs.gradients(function, arrays)]
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  tiled_attention.attend.clear_cache()
  for got, expected in zip([function(*arrays), *attention_inputs.gradients(function, arrays)], one_by_one):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize('geometry', attention_inputs.GEOMETRIES)
def test_bfloat16_is_close_to_float32(geometry, small_tiles):
  small_tiles(4, 8)
  arrays, _ = attention_inputs.inputs(13, *geometry)
  rounded = [a.astype(jnp.bfloat16) for a in arrays]
  exact = [a.astype(jnp.float32) for a in rounded]
  out = attention.relative_attention(*rounded)
  assert out.dtype == jnp.bfloat16
  fast, slow = attention_inputs.gradients(attention.relative_attention, rounded), attention_inputs.gradients(
      lambda *a: whole(*a, geometry), exact)
  # bfloat16 keeps 8 bits, 0.4 %; queries, weights and result are each rounded once on the way.
  for got, expected in zip([out, *fast], [whole(*exact, geometry), *slow]):
    np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=0.02 * float(jnp.abs(expected).max()))


def test_rotary_scores_depend_on_the_distance_alone(small_tiles):
  """Compares with the definition in complex numbers: score = Re(q conj(k) exp(i r f)), r the distance."""
  small_tiles(4, 8)
  random = np.random.RandomState(0)
  length, width, unit = 11, 6, 3
  q, k, v = random.randn(3, attention_inputs.B, length, attention_inputs.H, width)
  frequencies = 10000 ** -(np.arange(0, width, 2) / width)
  pair = lambda x: x[..., :width // 2] + 1j * x[..., width // 2:]
  distance = unit * (np.arange(length)[:, None] - np.arange(length))
  scores = np.einsum('bihf,bjhf,ijf->bhij', pair(q),
                     pair(k).conj(), np.exp(1j * distance[..., None] * frequencies)).real
  scores = np.where(np.tril(np.ones((length, length))), scores / np.sqrt(width), -np.inf)
  weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
  expected = np.einsum('bhij,bjhe->bihe', weights / weights.sum(axis=-1, keepdims=True), v)
  q, k, v = (jnp.asarray(x, jnp.float32) for x in (q, k, v))
  positions = unit * jnp.arange(length, dtype=jnp.float32)
  got = attention.rotary_attention(positions_lib.rotated(q, positions), positions_lib.rotated(k, positions), v)
  np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_distances_by_hand():
  # Upsampling by 2: queries 0..5, keys at 0, 2, 4. Rows: first and second query of a group.
  np.testing.assert_array_equal(positions_lib.distances(3, 2, 1), [[-4, -2, 0], [-5, -3, -1]])
  # Shortening by 2: queries at 0, 2; keys 0..3.
  np.testing.assert_array_equal(positions_lib.distances(2, 1, 2), [[-2, -1, 0, 1]])


def test_skew_by_hand():
  x = jnp.arange(12).reshape(3, 4)
  # Row 2 stays, row 1 moves left by 1, row 0 by 2; what runs over comes from the next row and is masked later.
  np.testing.assert_array_equal(positions_lib.skew(x, 1), [[2, 3, 4], [5, 6, 7], [8, 9, 10]])


def test_sinusoids_by_hand():
  np.testing.assert_allclose(positions_lib.sinusoids(np.array([-3, 7]), 6),
                             [reference.sinusoid(-3, 6), reference.sinusoid(7, 6)], rtol=1e-5, atol=1e-6)


def test_scores_of_all_heads_are_never_materialized_at_once():
  length = 4096
  arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in
            [(1, length, 8, 16)] * 3 + [(1, length, 8, 16), (8, 16), (8, 16)]]
  loss = lambda *a: attention.relative_attention(*a).sum()
  compiled = jax.jit(jax.grad(loss, argnums=range(6))).lower(*arrays).compile()
  one_matrix = 4 * length**2
  # The plain form keeps scores of content, scores of position and weights of 8 heads: 24 matrices.
  assert compiled.memory_analysis().temp_size_in_bytes < one_matrix / 2


def test_lengths_of_incomplete_groups_are_refused():
  arrays, _ = attention_inputs.inputs(4, 1, 1)
  arrays[0] = arrays[0][:, :3]
  with pytest.raises(ValueError, match='whole groups'):
    attention.relative_attention(*arrays)
