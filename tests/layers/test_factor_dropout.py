"""Tests shorten factor dropout: each draw equals the plain model, one compilation, uniform draws, clear errors."""

import collections
import functools

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
from tests.helpers import pairs
from tests.helpers import sampling
import pytest
from trax import layers as tl
from trax import optimizers
from trax import shapes

import trax_hourglass as th
from trax_hourglass.layers import factor_dropout
from trax_hourglass.models import flops
from trax_hourglass.models import hierarchy as hierarchy_lib
from trax_hourglass.training import step as step_lib
from tests.helpers.causality import assert_causal
from tests.helpers.predicting import compiled
from tests.helpers.predicting import decode
from tests.helpers.predicting import predicting

FREE = ['average', 'attention_average'], ['nothing', 'repeat', 'attention_x', 'attention_repeat']
HIERARCHIES = ['1@1 2@2|3 1@1', '0@1 1@5|2|3 0@1', '0@1 1@2|3 1@4|9 0@2|3 1@1', '1@1 0@2 1@6|4 1@2 0@1']


def keys_by_alternative(model, n):
  """Returns, for each of n alternatives, a key of the model with which it is drawn."""
  calls, found = [], {}

  def watched(key, n):
    calls.append(original(key, n))
    return calls[-1]

  original = factor_dropout.drawn
  factor_dropout.drawn = watched
  try:
    number = jax.jit(lambda key: (model.pure_fn(pairs.tokens(3), model.weights, model.state, key), calls.pop())[1])
    for seed in range(200):
      key = np.array([seed, seed], np.uint32)
      found.setdefault(int(number(key)), key)
      if len(found) == n:
        return [found[i] for i in range(n)]
  finally:
    factor_dropout.drawn = original
  raise AssertionError(f'of {n} alternatives only {sorted(found)} were drawn')


@pytest.mark.parametrize('hierarchy, expected', [
    ('2@1 8@3 2@1', ('2@1 8@3 2@1',)), ('8@1', ('8@1',)),
    ('2@1 8@2|3 2@1', ('2@1 8@2 2@1', '2@1 8@3 2@1')),
    ('0@1 1@2|3 4@4|9 5@2|3 1@1', ('0@1 1@2 4@4 5@2 1@1', '0@1 1@3 4@9 5@3 1@1')),
    ('1@1 2@2 3@4|6 2@2 1@1', ('1@1 2@2 3@4 2@2 1@1', '1@1 2@2 3@6 2@2 1@1')),
])
def test_alternatives_parse(hierarchy, expected):
  assert hierarchy_lib.alternatives(hierarchy) == expected


@pytest.mark.parametrize('hierarchy, message', [
    ('1@1 1@2|2 1@1', "'1@1 1@2 1@1' twice"), ('1@1 1@2|3 1@6|12|18 1@2|3 1@1', 'sets of 2 and 3'),
    ('1@1 1@2|3 1@6 1@2 1@1', "'1@3'"), ('1@1 1@2| 1@1', "'1@'"), ('1@1|2 1@4 1@1|2', 'not at token level'),
    ('1@1 1@2|3 1@4 1@2|3 1@1', "'1@4'"), ('1@1 1|2@3 1@1', "'1|2@3'"),
])
def test_invalid_sets_of_factors_are_refused(hierarchy, message):
  with pytest.raises(ValueError) as error:
    hierarchy_lib.alternatives(hierarchy)
  assert message in str(error.value) and repr(hierarchy) in str(error.value)


@hypothesis.settings(max_examples=sampling.examples(1, 20))  # Each compiles three or four programs.
@hypothesis.given(st.sampled_from(FREE[0]), st.sampled_from(FREE[1]), st.sampled_from(HIERARCHIES), st.integers(1, 13))
def test_each_draw_is_the_plain_model_of_that_factor(shortening, upsampling, hierarchy, length):
  """Compares logits and gradients, with one set of weights."""
  model = pairs.initialise(pairs.ours(hierarchy, shortening, upsampling, mode='train', dropout=0.0), length)
  x = pairs.tokens(length)

  def loss(model, weights, key):
    logits, _ = model.pure_fn(x, weights, model.state, key)
    return (logits**2).mean(), logits

  of = lambda model: jax.jit(jax.value_and_grad(functools.partial(loss, model), has_aux=True))
  drawing, alternatives = of(model), hierarchy_lib.alternatives(hierarchy)
  for key, alternative in zip(keys_by_alternative(model, len(alternatives)), alternatives):
    plain = pairs.ours(alternative, shortening, upsampling)
    plain.init(shapes.signature(x))
    assert jax.tree.map(np.shape, plain.weights) == jax.tree.map(np.shape, model.weights)
    (_, expected), expected_gradients = of(plain)(model.weights, key)
    (_, logits), gradients = drawing(model.weights, key)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(expected_gradients))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest), gradients,
                 expected_gradients)
  assert drawing._cache_size() == 1


@pytest.fixture(scope='module')
def model():
  return pairs.initialise(pairs.ours('0@1 1@2|3 0@1', 'average', 'attention_repeat', mode='train', dropout=0.0), 13)


def test_every_drawn_factor_is_causal_at_every_offset(model):
  forward = jax.jit(lambda key, x: model.pure_fn(x, model.weights, model.state, key)[0])
  for key in keys_by_alternative(model, 2):
    assert_causal(model, 13, lambda _, x, key=key: forward(key, x))


def test_weights_decode_at_each_factor(model):
  """Decoding equals the full pass of the drawn factor; modes other than 'train' take the first factor."""
  x = pairs.tokens(13)
  for hierarchy, alternative in [('0@1 1@2|3 0@1', '0@1 1@2 0@1'), ('0@1 1@3|2 0@1', '0@1 1@3 0@1')]:
    evaluated = pairs.ours(alternative, 'average', 'attention_repeat')
    evaluated.init(shapes.signature(x))
    expected = pairs.forward(evaluated)(model.weights, x)
    cached = predicting(model, hierarchy, 'average', 'attention_repeat', max_length=13)
    np.testing.assert_allclose(decode(compiled(cached), cached, x, 4), expected, rtol=0, atol=1e-4)


def test_draws_are_uniform_and_fixed_per_step():
  keys = [np.random.Philox(key=[seed, step]).random_raw(1).view(np.uint32) for seed in range(4) for step in range(750)]
  draw = jax.jit(jax.vmap(lambda key: factor_dropout.drawn(key, 3)))
  drawn = np.asarray(draw(np.stack(keys)))
  counts = collections.Counter(drawn.tolist())
  assert set(counts) == {0, 1, 2}
  assert all(abs(n - 1000) < 4 * (3000 * 1 / 3 * 2 / 3)**0.5 for n in counts.values())
  follows = (drawn[1:] == drawn[:-1]).mean()  # A step does not follow from the one before.
  assert abs(follows - 1 / 3) < 4 * (1 / 3 * 2 / 3 / 2999)**0.5


def test_a_step_is_compiled_once_and_trains_all_weights(model):
  x = pairs.tokens(7)
  batch = x, x, np.ones(x.shape, np.float32)
  model_with_loss = tl.Serial(model, tl.WeightedCategoryCrossEntropy())
  model_with_loss.init(shapes.signature(batch))
  optimizer = optimizers.SGD(0.1)
  optimizer.tree_init(model_with_loss.weights)
  trainer = step_lib.Trainer(model_with_loss, optimizer)
  losses = {float(trainer.one_step(batch, np.array([0, i], np.uint32), i, 0.0)[0]) for i in range(12)}
  assert len(losses) == 2  # The learning rate is 0: two factors, two losses.
  assert trainer.update._cache_size() == 1


def test_flops_are_the_mean_over_the_factors(model):
  def operations(hierarchy):
    plain = pairs.ours(hierarchy, 'average', 'attention_repeat')
    plain.init(shapes.signature(pairs.tokens(12)))
    return flops.forward(plain, 2, 12)
  assert flops.forward(model, 2, 12) == (operations('0@1 1@2 0@1') + operations('0@1 1@3 0@1')) // 2


def test_a_drawn_valley_prints_all_factors(model):
  assert 'Valley_2|3[' in str(model)


def test_a_plug_in_that_returns_no_layer_is_refused():
  with pytest.raises(ValueError, match='Hourglass.shortening = @.*returned None, expected a Trax layer'):
    th.Hourglass(hierarchy='1@1 1@2|3 1@1', shortening=lambda *_: None)


@pytest.mark.parametrize('pair, role', [
    (('linear', 'repeat'), 'shortening by ShortenByLinear'), (('average', 'linear'), 'upsampling by UpsampleByLinear'),
    (('attention_linear', 'attention_x'), 'shortening by ShortenByAttention'),
    (('average', 'attention_linear'), 'upsampling by UpsampleByAttention'),
])
@pytest.mark.parametrize('mode', ['train', 'eval', 'predict'])
def test_resampling_whose_weights_depend_on_the_factor_is_refused(pair, role, mode):
  with pytest.raises(ValueError, match=rf"1@2\|3.*{role} has weights of shape .* at factor 2 and .* at 3: choose"):
    pairs.ours('1@1 1@2|3 1@1', *pair, mode=mode)
