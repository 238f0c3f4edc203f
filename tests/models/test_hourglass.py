"""Tests the model: causal at every offset, independent of padding, clear errors; test_paper_configs.py tests sizes."""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
from tests.helpers import pairs
from tests.helpers import sampling
import pytest
from trax import layers as tl
from trax import shapes
from tests.helpers import causality

import trax_hourglass as th
from trax_hourglass.layers import remade
from trax_hourglass.models import hourglass
from trax_hourglass.ops import remat as recompute_lib

HIERARCHIES = {'single': '0@1 1@3 0@1', 'nested': '0@1 0@2 1@4 1@2 0@1'}

# Table 1 of the paper: hierarchy, millions of parameters.


@pytest.mark.parametrize(
    'shortening, upsampling, kind, length',
    [
        *((*pair, 'single', 13) for pair in pairs.ALL),
        # Each shortening and each upsampling once; with --thorough each pair.
        *((*pair, 'nested', 15)
          for pair in sampling.some(zip(itertools.cycle(pairs.SHORTENINGS), pairs.UPSAMPLINGS), pairs.ALL))
    ])
def test_causal_at_every_offset(kind, length, shortening, upsampling):
  causality.assert_causal(pairs.initialise(pairs.ours(HIERARCHIES[kind], shortening, upsampling), length), length)


@pytest.mark.parametrize('hierarchy', ['2@1', '0@1 1@3 2@1', '1@1 0@2 1@6 1@2 0@1', '1@1 1@5 1@1'])
def test_flat_and_asymmetric_models_are_causal(hierarchy):
  causality.assert_causal(pairs.initialise(pairs.ours(hierarchy), 17), 17)


def test_a_smaller_shift_leaks_the_future(monkeypatch):
  """The causality test can fail: with a shift by K - 2 a group sees one token of its own future."""
  right = tl.ShiftRight
  monkeypatch.setattr(hourglass.tl, 'ShiftRight', lambda n=1, mode='eval': right(n - 1 if n > 1 else n, mode))
  wrong = pairs.initialise(pairs.ours('0@1 1@3 0@1'), 13)
  with pytest.raises(AssertionError, match='leaks'):
    causality.assert_causal(wrong, 13)


def test_gradients_to_later_inputs_are_zero():
  model = pairs.initialise(pairs.ours('0@1 1@3 1@1'), 12)
  embedding = next(i for i, layer in enumerate(model.sublayers) if layer.name.startswith('Embedding'))
  below, above = tl.Serial(*model.sublayers[:embedding + 1]), tl.Serial(*model.sublayers[embedding + 1:])
  below.weights, above.weights = model.weights[:embedding + 1], model.weights[embedding + 1:]
  below.state, above.state = model.state[:embedding + 1], model.state[embedding + 1:]
  vectors, tokens = below(pairs.tokens(12, batch=1))

  def position_sums(vectors):
    logits, _ = above.pure_fn((vectors, tokens), above.weights, above.state, jax.random.PRNGKey(0))
    return jnp.abs(logits).sum(axis=(0, 2))

  size = np.abs(np.asarray(jax.jit(jax.jacrev(position_sums))(vectors))).sum(axis=(1, 3))  # (output, input)
  assert (size[np.triu_indices(12, 1)] == 0).all()  # `vectors` are shifted already, so output i sees inputs <= i.
  assert (np.diag(size) > 0).all()


@pytest.mark.parametrize('hierarchy', ['1@1 1@3 0@1', '0@1 0@2 1@6 1@2 0@1'])
def test_a_shorter_input_gives_a_prefix(hierarchy):
  model = pairs.initialise(pairs.ours(hierarchy), 14)
  forward, x = pairs.forward(model), pairs.tokens(14)
  whole = forward(model.weights, x)
  for length in sampling.some((1, 6, 7), range(1, 14)):
    np.testing.assert_allclose(forward(model.weights, x[:, :length]), whole[:, :length], rtol=0, atol=1e-4)


def test_a_stack_is_one_layer_with_a_leading_axis():
  model = pairs.ours('3@1 2@2 1@1')
  model.init(shapes.signature(pairs.tokens(4)))
  stacks = [layer for layer in model.sublayers if layer.name.startswith('Stack')]
  assert [layer.name for layer in stacks] == ['Stack_3@1', 'Stack_1@1']
  assert {w.shape[0] for w in jax.tree.leaves(stacks[0].weights[2])} == {3}
  first = jax.tree.leaves(stacks[0].weights[2])[2]  # The first matrix: every block draws its own numbers.
  assert not np.allclose(first[0], first[1])


def test_all_attention_layers_share_relative_biases():
  model = pairs.ours('1@1 1@2 1@1')
  model.init(shapes.signature(pairs.tokens(4)))
  shape = (pairs.N_HEADS, pairs.D_MODEL // pairs.N_HEADS)
  assert sum(w.shape == shape for w in jax.tree.leaves(model.weights)) == 2


def test_dropout_is_active_only_in_training():
  x = pairs.tokens(9)
  train, evaluated = pairs.ours('0@1 1@3 0@1', mode='train', dropout=0.3), pairs.ours('0@1 1@3 0@1', dropout=0.3)
  pairs.initialise(train, 9)
  evaluated.init(shapes.signature(x))
  run = jax.jit(lambda rng: train.pure_fn(x, train.weights, train.state, rng)[0])
  once, again, other = run(jax.random.PRNGKey(0)), run(jax.random.PRNGKey(0)), run(jax.random.PRNGKey(1))
  np.testing.assert_array_equal(once, again)
  assert np.abs(once - other).max() > 1e-2
  without = pairs.forward(evaluated)
  np.testing.assert_array_equal(without(train.weights, x), without(train.weights, x))
  assert np.abs(once - without(train.weights, x)).max() > 1e-2


@pytest.mark.parametrize('mode', ['train', 'eval', 'predict'])
def test_a_program_is_the_same_in_every_process(mode):
  """The compilation cache needs equal programs, although Trax draws a random number for each new layer."""
  texts = []
  for seed in 0, 1:
    random.seed(seed)
    model = pairs.ours('1@1', mode=mode, max_length=8)
    weights, state = jax.eval_shape(lambda model=model: model.init(shapes.ShapeDtype((1, 1), np.int32)))
    in_a_loop = lambda n, x, weights, state, model=model: jax.lax.fori_loop(
        0, n, lambda i, state: model.pure_fn(x, weights, state, jnp.zeros(2, jnp.uint32))[1], state)
    texts.append(jax.jit(in_a_loop).lower(2, np.zeros((1, 1), np.int32), weights, state).as_text())
  assert texts[0] == texts[1]


def test_equal_seeds_give_equal_weights():
  models = [pairs.ours('1@1 1@3 1@1') for _ in range(3)]
  for model, seed in zip(models, (0, 0, 1)):
    model.init(shapes.signature(pairs.tokens(6)), rng=jax.random.PRNGKey(seed))
  same, other = (
      [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (models[0].weights, m.weights)))] for m in models[1:])
  assert all(same) and not all(other)


@pytest.mark.parametrize('options, message',
                         [({'d_model': 15, 'n_heads': 3}, 'd_model is 15'),
                          ({'d_model': 14, 'n_heads': 4}, '14 does not divide among 4'),
                          ({'n_heads': 0}, 'n_heads is 0'), ({'d_ff': 0}, 'd_ff is 0'),
                          ({'dropout': 1.0}, 'dropout is 1.0'), ({'mode': 'test'}, "mode is 'test'"),
                          ({'hierarchy': '1@1 1@3'}, '1@1 1@3'), ({'vocab_size': 0}, 'vocab_size'),
                          ({'upsampling': lambda *a: th.UpsampleByAttention(*a, distances_in='miles')}, 'miles'),
                          ({'vanilla_attention': lambda *_: tl.Dup()}, 'returned a layer of 1 inputs and 2 outputs'),
                          ])
def test_invalid_arguments_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    th.Hourglass(**{'hierarchy': '1@1 1@3 1@1', 'd_model': 14, 'd_ff': 10, 'n_heads': 7, **options})


@pytest.mark.parametrize('x, message', [(np.zeros((2, 0), np.int32), r'\(2, 0\)'),
                                        (np.zeros((0, 3), np.int32), r'\(0, 3\)'), (np.zeros(3, np.int32), r'\(3,\)'),
                                        (np.zeros((2, 3), np.float32), 'float32'),
                                        (np.full((2, 3), pairs.VOCAB, np.int32), f'token {pairs.VOCAB}'),
                                        (np.full((2, 3), -1, np.int32), 'token -1'),])
def test_invalid_tokens_are_refused(x, message):
  model = pairs.ours('1@1')
  model.init(shapes.ShapeDtype((2, 3), np.int32))
  with pytest.raises(ValueError, match=message):
    model(x)


def test_remat_changes_only_memory():
  x = pairs.tokens(7)
  results, weights = [], None
  for choice in sampling.some(('products', 'none', 'blocks'), ('products', 'none', 'elementwise', 'blocks')):
    made = pairs.ours('0@1 2@3 0@1', 'average', 'attention_x', mode='train', dropout=0.2, recompute=choice)
    model = pairs.initialise(made, 7)
    weights = weights or model.weights

    def loss(weights, model=model):
      return (model.pure_fn(x, weights, model.state, jax.random.PRNGKey(3))[0]**2).mean()

    results.append(jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(weights)))
  # Some gradients are zero but for rounding (a key's bias moves all scores of a query alike): compared with the
  # largest.
  largest = max(float(np.abs(a).max()) for a in results[0])
  for result in results[1:]:
    for a, b in zip(results[0], result):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest)


def test_remat_policies_recompute_what_they_name():
  x, products, activations = pairs.tokens(7), {}, {}
  for choice in recompute_lib.CHOICES:
    model = pairs.initialise(pairs.ours('1@1', mode='train', recompute=choice), 7)
    loss = lambda weights, model=model: model.pure_fn(x, weights, model.state, jax.random.PRNGKey(3))[0].sum()
    program = str(jax.make_jaxpr(jax.grad(loss))(model.weights))
    products[choice], activations[choice] = program.count(' dot_general['), program.count(' tanh ')
  assert products['none'] == products['elementwise'] < products['products'] < products['blocks']
  assert activations == {'none': 1, 'elementwise': 2, 'products': 2, 'blocks': 2}


def test_a_resampling_keeps_no_more_than_a_block(monkeypatch):
  """Without remat of the whole resampling, each of its layers would keep its results."""
  def temporary_bytes():
    model = pairs.ours('0@1 1@3 0@1', 'attention_average', 'attention_x', mode='train', d_model=32, d_ff=64, n_heads=2)
    model = pairs.initialise(model, 1020)
    loss = lambda weights: model.pure_fn(pairs.tokens(1020), weights, model.state, jax.random.PRNGKey(3))[0].sum()
    return jax.jit(jax.grad(loss)).lower(model.weights).compile().memory_analysis().temp_size_in_bytes

  whole = temporary_bytes()
  monkeypatch.setattr(remade.Remade, 'forward', tl.Serial.forward)
  assert whole < 0.9 * temporary_bytes()


@pytest.mark.parametrize('hierarchy, length', [('1@1', 9), ('0@1 1@3 1@1', 13)])
def test_rotary_attention_is_causal(hierarchy, length):
  model = pairs.ours(hierarchy, d_model=12, n_heads=2, vanilla_attention=th.CausalRotaryAttention,
                     shortened_attention=th.CausalRotaryAttention)
  assert 'RotaryAttention_2_heads' in str(model)
  causality.assert_causal(pairs.initialise(model, length), length)


def test_rotary_attention_needs_heads_of_even_width():
  with pytest.raises(ValueError, match='heads are 3 wide.*even width'):
    pairs.ours('1@1', d_model=6, n_heads=2, vanilla_attention=th.CausalRotaryAttention)


def test_unknown_remat_policies_are_refused():
  with pytest.raises(ValueError, match="'everything'.*'elementwise'"):
    pairs.ours('1@1', recompute='everything')
