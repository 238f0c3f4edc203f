"""Tests Trax's attention layers within an Hourglass: each kind is causal and independent of other rows."""

import functools

import jax
import numpy as np
from tests.helpers import pairs
import pytest
import trax.layers as tl
from trax import shapes

import trax_hourglass as th
from trax_hourglass.layers import spec as spec_lib
from trax_hourglass.models import interop

LSH = functools.partial(tl.PureLSHSelfAttentionWrapper, pure_lsh_implementation=tl.PureLSHSelfAttention, num_weights=2,
                        weights_format='model', rotary_position_emb=True, chunk_len=4, n_hashes=2)
KINDS = {  # The layer, and what lengths must be a multiple of.
    'x to x': (tl.CausalAttention, 1),
    'queries, keys, values': (tl.AttentionQKV, 1),
    'lsh': (LSH, 4),
    'in chunks': (functools.partial(tl.SelfAttention, chunk_len=3), 3),
}


def plugged(kind, spec, tokens_per_vector):
  layer, length_multiple = KINDS[kind]
  return th.TraxAttention(spec, tokens_per_vector, layer=layer, length_multiple=length_multiple)


def spec(mode='eval', dropout=0.0):
  return spec_lib.BlockSpec(14, 10, 7, dropout, None, None, 'none', mode, 1, None)


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_is_causal_and_ignores_other_rows(kind):
  model = pairs.initialise(pairs.ours('2@1 1@3 1@1', 'average', 'repeat',
                                      vanilla_attention=functools.partial(plugged, kind)), 8)
  x, run = pairs.tokens(8), pairs.forward(model)
  logits = run(model.weights, x)
  assert logits.shape == (2, 8, pairs.VOCAB) and np.isfinite(logits).all()
  np.testing.assert_allclose(run(model.weights, x[::-1]), logits[::-1], rtol=1e-4, atol=1e-4)
  if kind == 'lsh':  # A vector's hash bucket, and so the vectors it sees, depends on how all vectors sort.
    return
  changed = x.copy()
  changed[:, 5] = (changed[:, 5] + 1) % pairs.VOCAB
  np.testing.assert_allclose(run(model.weights, changed)[:, :6], logits[:, :6], rtol=1e-4, atol=1e-4)


def test_padding_to_a_multiple_changes_nothing():
  """SelfAttention by chunks of 3, with the chunk before: 8 vectors, padded to 9, are the first 8 of 9."""
  x = np.random.RandomState(0).randn(2, 9, 14).astype(np.float32)
  layer = plugged('in chunks', spec(), 1)
  layer.init(shapes.signature(x), rng=jax.random.PRNGKey(0))
  of_nine, of_eight = layer(x), layer(x[:, :8])
  assert of_eight.shape == (2, 8, 14)
  np.testing.assert_allclose(of_eight, of_nine[:, :8], rtol=1e-5, atol=1e-5)


def test_attention_equals_that_of_trax():
  x = np.random.RandomState(0).randn(2, 8, 14).astype(np.float32)
  mask = np.tril(np.ones((2, 1, 8, 8), bool))
  layer, direct = plugged('queries, keys, values', spec(), 1), tl.AttentionQKV(14, n_heads=7, mode='eval')
  layer.init(shapes.signature(x), rng=jax.random.PRNGKey(0))
  direct.init((*[shapes.signature(x)] * 3, shapes.signature(mask)))
  expected, _ = direct.pure_fn((x, x, x, mask), layer.weights, direct.state, jax.random.PRNGKey(0))
  np.testing.assert_allclose(layer(x), expected[0], rtol=1e-5, atol=1e-5)


def test_lsh_hashes_differ_between_training_steps():
  x = np.random.RandomState(0).randn(1, 32, 14).astype(np.float32)
  layer = plugged('lsh', spec('train'), 1)
  layer.init(shapes.signature(x), rng=jax.random.PRNGKey(0))
  first, again, other = (layer.pure_fn(x, layer.weights, (), jax.random.PRNGKey(n))[0] for n in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert float(np.abs(first - other).max()) > 1e-3


@pytest.mark.parametrize('layer, multiple, message', [
    (LSH, 1, 'does not take 7 vectors of width 14 .*length_multiple'), (tl.Dup, 1, 'takes 1 arrays and gives 2'),
])
def test_unsuitable_attention_layers_are_refused(layer, multiple, message):
  with pytest.raises(ValueError, match=message):
    th.TraxAttention(spec(), 1, layer=layer, length_multiple=multiple)


def test_model_equals_that_of_trax_with_that_attention():
  """Weights of `trax.models.HourglassLM(vanilla_attn_type=...)` load in the same way and give the same logits."""
  theirs = pairs.initialise(pairs.theirs('1@1 1@3 1@1', 'average', 'repeat', vanilla_attn_type=tl.CausalAttention), 9)
  ours = interop.from_trax(theirs, pairs.ours('1@1 1@3 1@1', 'average', 'repeat',
                                              vanilla_attention=functools.partial(plugged, 'x to x')))
  got, expected = (pairs.forward(model)(model.weights, pairs.tokens(9)) for model in (ours, theirs))
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))
