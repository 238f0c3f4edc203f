"""Tests gated skips: a learnt number initially 1, or a map initially 0; each is causal and decodes."""

import jax
import numpy as np
import pytest

from tests.helpers import causality
from tests.helpers import pairs
from tests.helpers import predicting

HIERARCHY = '0@1 1@3 1@1', 'average', 'repeat'


def made(skip, rng=0):
  model = pairs.ours(*HIERARCHY, skip=skip)
  model.init(pairs.shapes.signature(pairs.tokens(7)), rng=jax.random.PRNGKey(rng))
  return model


def logits(model, weights):
  return np.asarray(pairs.forward(model)(weights, pairs.tokens(7)))


def test_a_skip_starts_as_identity_or_zero():
  plain, scaled, linear = map(made, ('identity', 'scaled', 'linear'))
  n_plain, n_scaled, n_linear = (len(jax.tree.leaves(model.weights)) for model in (plain, scaled, linear))
  assert (n_scaled - n_plain, n_linear - n_plain) == (1, 2)
  with_the_number = jax.tree.leaves(scaled.weights)
  number, = [place for place, leaf in enumerate(with_the_number) if leaf.shape == ()]
  others = with_the_number[:number] + with_the_number[number + 1:]
  weights = jax.tree.unflatten(jax.tree.structure(plain.weights), others)
  np.testing.assert_allclose(logits(scaled, scaled.weights), logits(plain, weights), atol=1e-6)
  nothing = list(with_the_number)
  nothing[number] = np.zeros((), np.float32)
  linear_weights = jax.tree.leaves(linear.weights)
  assert all((leaf == 0).all() for leaf in linear_weights[number:number + 2])
  rest = linear_weights[:number] + linear_weights[number + 2:]
  nothing = jax.tree.unflatten(jax.tree.structure(scaled.weights), rest[:number] + [nothing[number]] + rest[number:])
  np.testing.assert_allclose(logits(linear, linear.weights), logits(scaled, nothing), atol=1e-6)


@pytest.mark.parametrize('skip', ['scaled', 'linear'])
def test_gated_skips_are_causal_and_decode(skip):
  model = pairs.initialise(pairs.ours(*HIERARCHY, skip=skip), 13)
  causality.assert_causal(model, 13)
  cached = predicting.predicting(model, *HIERARCHY, max_length=13, skip=skip)
  x = pairs.tokens(13)
  np.testing.assert_allclose(predicting.decode(predicting.compiled(cached), cached, x, 4),
                             pairs.forward(model)(model.weights, x), atol=1e-4)


def test_unknown_skips_are_refused():
  with pytest.raises(ValueError, match="skip is 'gated': choose one of 'identity', 'scaled', 'linear'"):
    pairs.ours(*HIERARCHY, skip='gated')
