"""Tests a width per level: equal widths change nothing, unequal ones are causal and decode as the full pass."""

import jax
import numpy as np
import pytest

from tests.helpers import causality
from tests.helpers import pairs
from tests.helpers import predicting
from trax_hourglass.models import flops
from trax_hourglass.models import interop
from trax_hourglass.models import weight_names

WIDTHS = {'wider': ('1@1 1@3 1@1', dict(d_model=(14, 28))),
          'narrower': ('0@1 1@3 0@1', dict(d_model=(28, 14), n_heads=(7, 7))),
          'nested': ('0@1 1@2 1@4 0@2 0@1', dict(d_model=(14, 28, 42), shortening='average', upsampling='repeat'))}


@pytest.mark.parametrize('widths', [(14, 14), [14, 14]])
def test_equal_widths_give_the_plain_model(widths):
  before, now = (pairs.ours('1@1 2@3 1@1', d_model=width) for width in (14, widths))
  for model in before, now:
    model.init(pairs.shapes.signature(pairs.tokens(6)), rng=jax.random.PRNGKey(0))
  assert weight_names.names(now) == weight_names.names(before)
  jax.tree.map(np.testing.assert_array_equal, now.weights, before.weights)
  x = pairs.tokens(6)
  np.testing.assert_array_equal(pairs.forward(now)(now.weights, x), pairs.forward(before)(before.weights, x))


@pytest.mark.parametrize('name', WIDTHS)
def test_unequal_widths_are_causal_and_decode_as_the_full_pass(name):
  hierarchy, widths = WIDTHS[name]
  model = pairs.initialise(pairs.ours(hierarchy, **widths), 13)
  causality.assert_causal(model, 13)
  x = pairs.tokens(13, batch=3)
  cached = predicting.predicting(model, hierarchy, max_length=13, **widths)
  function = predicting.compiled(cached)
  for n_prompt in 1, 5:
    np.testing.assert_allclose(predicting.decode(function, cached, x, n_prompt), pairs.forward(model)(model.weights, x),
                               rtol=0, atol=2e-4)


def shapes_of(model, part):
  leaves = zip(weight_names.names(model), jax.tree.leaves(model.weights))
  return {name: leaf.shape for name, leaf in leaves if part in name}


def test_sizes_follow_the_width_unless_they_are_given():
  def inner(**options):
    model = pairs.initialise(pairs.ours('0@1 1@3 1@1', 'average', 'repeat', **options), 6)
    shapes = shapes_of(model, 'decoder_block/dense/w')
    biases = shapes_of(model, 'relative_biases/content')
    return [shape[1:] for shape in shapes.values()], list(biases.values())

  # Below and above; heads are 2 wide at both.
  assert inner(d_model=(14, 28)) == ([(28, 20), (14, 10)], [(14, 2), (7, 2)])
  assert inner(d_model=(14, 28), d_ff=(10, 30), n_heads=(7, 2)) == ([(28, 30), (14, 10)], [(2, 14), (7, 2)])
  assert inner(d_ff=(10, 30)) == ([(14, 30), (14, 10)], [(7, 2)])  # One pair of biases, of one width.


def test_every_kind_of_resampling_takes_unequal_widths():
  for shortening, upsampling in zip(pairs.SHORTENINGS, ('nothing', 'repeat', 'linear', 'attention_linear')):
    model = pairs.ours('0@1 1@3 0@1', shortening, upsampling, d_model=(14, 28))
    out = jax.eval_shape(lambda model=model: (model.init(pairs.shapes.signature(pairs.tokens(6))),
                                              model(pairs.tokens(6)))[1])
    assert out.shape == (2, 6, pairs.VOCAB)


def test_padding_vector_is_learnt_and_flops_grow_with_width():
  model = pairs.initialise(pairs.ours('0@1 1@3 0@1', 'average', 'repeat', d_model=(14, 28), mode='train'), 6)
  x = pairs.tokens(6)
  gradients = jax.grad(lambda weights: model.pure_fn(x, weights, model.state, jax.random.PRNGKey(0))[0].sum())(
      model.weights)
  model.weights = gradients
  (_, vector), = [(name, leaf) for name, leaf in zip(weight_names.names(model), jax.tree.leaves(gradients))
                  if 'to_width' in name]
  assert vector.shape == (14,) and np.abs(vector).min() > 0
  narrow, wide = (flops.forward(pairs.initialise(
      pairs.ours('1@1 4@3 1@1', 'average', 'repeat', d_model=width), 6), 1, 6)
                  for width in (14, (14, 28)))
  assert wide > 1.5 * narrow


@pytest.mark.parametrize('options, message', [
    (dict(d_model=(14, 28, 28)), r'd_model is \(14, 28, 28\): expected 2 of them, one for each level'),
    (dict(d_model=(14, 21), n_heads=(7, 7), d_ff=(10, 10)), r'd_model is 21: relative positions need an even width'),
    (dict(d_model=(14, 20)), r'n_heads is 7 at the top and would be 10 .*|d_ff is 10 at the top and would be 14.2857'),
    (dict(d_model=(14, 28), n_heads=(7, 3)), r'd_model 28 does not divide among 3 heads: 1 would be left over'),
    (dict(d_model=(14, 'wide')), "d_model is 'wide'"), (dict(d_model=()), r'd_model is \(\)'),
    (dict(d_ff=(10,)), r'd_ff is \(10,\): expected 2'),
])
def test_invalid_widths_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    pairs.ours('1@1 1@3 1@1', **options)


def test_the_authors_model_has_one_width():
  model = pairs.initialise(pairs.ours('0@1 1@3 0@1', 'average', 'repeat', d_model=(14, 28)), 6)
  with pytest.raises(ValueError, match='unequal widths, and trax.models.HourglassLM has one width: give d_model as a'):
    interop.to_trax(model)
