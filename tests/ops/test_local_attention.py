"""Tests windowed attention against its definition, in values and gradients: exact, causal, linear in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trax_hourglass as th
from trax_hourglass.layers import spec as spec_lib
from trax_hourglass.ops import attention
from trax_hourglass.ops import dropout
from trax_hourglass.ops import local_attention
from trax_hourglass.ops import prng
from trax_hourglass.ops import remat

B, H, E = 2, 3, 5


def inputs(length, window, seed=0):
  random = np.random.RandomState(seed)
  shapes = [(B, length, H, E)] * 3 + [(window, H, E), (H, E), (H, E)]
  return [jnp.asarray(random.randn(*shape), jnp.float32) for shape in shapes]


def by_definition(q, k, v, e, c, l, keep=None, rate=0.0):
  """Computes windowed attention as one matrix; keep (H, B, L, L)."""
  window, places = e.shape[0], np.arange(q.shape[1])
  distance = places - places[:, None]
  visible = (distance <= 0) & (distance > -window)
  embedded = e[np.clip(distance + window - 1, 0, window - 1)]
  scores = jnp.einsum('bqhe,bkhe->bhqk', q + c, k) + jnp.einsum('bqhe,qkhe->bhqk', q + l, embedded)
  weights = jax.nn.softmax(jnp.where(visible, scores / np.sqrt(E), -jnp.inf))
  if keep is not None:
    weights = jnp.where(keep.swapaxes(0, 1), weights / (1 - rate), 0)
  return jnp.einsum('bhqk,bkhe->bqhe', weights, v)


def gradients(function, arrays):
  probe = jnp.asarray(np.random.RandomState(1).randn(*arrays[0].shape), jnp.float32)
  return jax.grad(lambda *a: (function(*a) * probe).sum(), argnums=range(len(arrays)))(*arrays)


@pytest.mark.parametrize('length, window, rate', [
    (1, 1, 0.0), (7, 1, 0.0), (7, 3, 0.3), (9, 3, 0.0), (10, 4, 0.3), (5, 20, 0.3), (17, 5, 0.0)])
def test_values_and_gradients_equal_the_definition(length, window, rate):
  arrays, key, keep = inputs(length, window), jax.random.PRNGKey(5), None
  if rate:  # Masks go by position, so they equal those of attention without a window, for blocks of any size.
    places = jnp.arange(B * length).reshape(B, -1, 1), jnp.arange(length)[None, None]
    keep = np.stack([dropout.keep_mask(head, *places, rate) for head in prng.split(key, H)])
  fast = functools.partial(attention.local_attention, rate=rate, key=key)
  slow = functools.partial(by_definition, keep=keep, rate=rate)
  for got, expected in zip([fast(*arrays), *gradients(fast, arrays)], [slow(*arrays), *gradients(slow, arrays)]):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(jnp.abs(expected).max())))


def test_bfloat16_is_close_to_float32():
  arrays = [a.astype(jnp.bfloat16) for a in inputs(13, 4)]
  exact = [a.astype(jnp.float32) for a in arrays]
  out = attention.local_attention(*arrays)
  assert out.dtype == jnp.bfloat16
  for got, expected in zip([out, *gradients(attention.local_attention, arrays)],
                           [by_definition(*exact), *gradients(by_definition, exact)]):
    # bfloat16 keeps 8 bits, 0.4 %; queries, weights and result are each rounded once on the way.
    np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=0.02 * float(jnp.abs(expected).max()))


def test_skew_by_hand():
  x = jnp.arange(1, 10).reshape(3, 3)  # Query i of a block; distances -2, -1, 0.
  np.testing.assert_array_equal(local_attention._skew(x), [[0, 1, 2, 3, 0, 0], [0, 0, 4, 5, 6, 0], [0, 0, 0, 7, 8, 9]])


def layer(plug_in, mode='eval', dropout_rate=0.0, tokens_per_vector=1, **options):
  """Returns an initialised attention layer, and the function x -> output."""
  spec = spec_lib.BlockSpec(14, 10, 7, dropout_rate, None, None, 'none', mode, 1, None)
  made = plug_in(spec, tokens_per_vector, **options)
  biases = [jnp.asarray(np.random.RandomState(i).randn(7, 2), jnp.float32) for i in range(2)]
  made.init([jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 5, 14), (7, 2), (7, 2))], rng=jax.random.PRNGKey(3))
  return made, lambda x: made.pure_fn((x, *biases), made.weights, made.state, jax.random.PRNGKey(0))[0]


@pytest.mark.parametrize('tokens_per_vector', [1, 3])
def test_a_window_as_long_as_the_text_is_plain_relative_attention(tokens_per_vector):
  x = jnp.asarray(np.random.RandomState(0).randn(2, 11, 14), jnp.float32)
  _, whole = layer(th.CausalRelativeAttention, tokens_per_vector=tokens_per_vector)
  for window in (11, 300):
    _, local = layer(th.CausalLocalAttention, tokens_per_vector=tokens_per_vector, window=window)
    np.testing.assert_allclose(local(x), whole(x), rtol=1e-5, atol=1e-5)


def test_memory_is_linear_in_the_length():
  def temporary_bytes(length):
    arrays = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in inputs(length, 8)]
    loss = lambda *a: attention.local_attention(*a).sum()
    return jax.jit(jax.grad(loss, argnums=range(6))).lower(*arrays).compile().memory_analysis().temp_size_in_bytes
  # With scores of all pairs the ratio would be 16.
  assert temporary_bytes(1024) < 4.5 * temporary_bytes(256)


def test_attention_output_is_kept_under_remat():
  arrays = inputs(12, 4)
  n_loops = {}
  for choice in 'products', 'blocks':
    # The gradient of the square needs attention's output.
    body = remat.made_again(lambda q, _: (jnp.square(attention.local_attention(q, *arrays[1:])), None), choice)
    program = str(jax.make_jaxpr(jax.grad(lambda q, body=body: body(q, None)[0].sum()))(arrays[0]))
    n_loops[choice] = program.count(' scan[')
  assert n_loops == {'products': 2, 'blocks': 3}  # Forward, once or twice, and backward.


@pytest.mark.parametrize('window', [0, 1.5, 'all'])
def test_invalid_windows_are_refused(window):
  with pytest.raises(ValueError, match='window is .*: give a whole number above 0'):
    layer(th.CausalLocalAttention, window=window)
