"""Tests the compiled step: gradient accumulation equals the whole batch, bfloat16 is close, non-finite steps stop."""

import gc

import jax
from jax.extend import core as jax_core
import jax.numpy as jnp
import numpy as np
from tests.helpers import pairs
import pytest
from trax import layers as tl
from trax import optimizers
from trax import shapes

from tests.helpers import runs
from trax_hourglass.layers import core
from trax_hourglass.layers import loss
from trax_hourglass.training import step


def losses(n_steps=3, batch_size=6, **options):
  """Returns the losses of the first steps without dropout, and the trainer."""
  x = pairs.tokens(7, batch=batch_size)
  # Token weights differ, so that a mean over the parts' means would be wrong. One of six parts has only zero weights.
  batch = (x, x, np.random.RandomState(2).randint(0, 3, x.shape).astype(np.float32))
  batch[2][4] = 0.0
  model = tl.Serial(pairs.ours('0@1 1@3 0@1', 'average', 'repeat', mode='train', dropout=0.0),
                    tl.WeightedCategoryCrossEntropy())
  model.init(shapes.signature(batch), rng=jax.random.PRNGKey(0))
  optimizer = optimizers.Adam(1e-2)
  optimizer.tree_init(model.weights)
  trainer = step.Trainer(model, optimizer, **options)
  return [float(trainer.one_step(batch, jax.random.PRNGKey(i), i, 1e-2)[0]) for i in range(n_steps)], trainer


@pytest.fixture(scope='module')
def whole():
  return losses()[0]


@pytest.mark.parametrize('parts', [2, 6])
def test_gradient_accumulation_equals_the_whole_batch(whole, parts):
  np.testing.assert_allclose(losses(accumulate=parts)[0], whole, rtol=1e-5)


def test_bfloat16_losses_are_close_and_weights_stay_float32(whole):
  got, trainer = losses(dtype='bfloat16')
  np.testing.assert_allclose(got, whole, rtol=0.02)  # Products of bfloat16 numbers, with 8 significant bits.
  assert got != whole
  assert {x.dtype for x in jax.tree.leaves((trainer.model_with_loss.weights, trainer.slots))} == {np.dtype(np.float32)}


def test_only_weights_and_slots_stay_in_memory():
  def alive():
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())

  before = alive()
  _, trainer = losses(n_steps=2)
  held = sum(array.nbytes for array in jax.tree.leaves((trainer.model_with_loss.weights, trainer.slots)))
  assert held <= alive() - before < 1.05 * held


def test_bfloat16_sums_gradients_in_float32():
  """In bfloat16, 1024 terms of 1/256, for a row of the embedding or one per chunk, would sum to at most 1."""
  weights = jnp.zeros((2, 1), jnp.bfloat16)
  layer = core.Embedding(2, 1)
  total = lambda weights: layer.pure_fn(np.zeros((1, 1024), np.int32), weights,
                                        (), None)[0].astype(np.float32).sum() / 256
  np.testing.assert_array_equal(jax.grad(total)(weights), [[4.0], [0.0]])

  class Linear:
    vectors = staticmethod(lambda tokens, weights, state, rng: (jnp.ones((1, 1024, 1), jnp.bfloat16), state))
    logits = staticmethod(lambda vectors, weights: vectors * weights)

  nats = lambda weights: loss.token_nats(Linear, None, np.zeros((1, 1024), np.int32), weights,
                                         (), None, chunk=1)[0].sum()
  # With two equal logits, each token has a gradient of -1/2 for the first one.
  np.testing.assert_array_equal(jax.grad(nats)(jnp.zeros(2, jnp.bfloat16)), [-512.0, 512.0])


def test_bfloat16_is_used_in_matrix_products_but_not_the_loss():
  _, trainer = losses(n_steps=0, dtype='bfloat16')
  x = pairs.tokens(7, batch=6)
  batch = (x, x, np.ones(x.shape, np.float32))
  jaxpr = jax.make_jaxpr(trainer.update)(*trainer.arguments(batch, jax.random.PRNGKey(0), 0, 1e-2))
  kinds = {'dot_general': [], 'log': []}
  for equation in equations(jaxpr.jaxpr):
    # The scalar dot products are Adam's norms.
    if equation.primitive.name in kinds and equation.outvars[0].aval.ndim:
      kinds[equation.primitive.name].append(equation.invars[0].aval.dtype)
  products, logarithms = kinds['dot_general'], kinds['log']
  assert products and all(dtype == 'bfloat16' for dtype in products)
  assert logarithms and all(dtype == np.float32 for dtype in logarithms)


def equations(jaxpr):
  """Yields all equations of a jaxpr, including nested ones."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax_core.jaxprs_in_params(equation.params):
      yield from equations(inner)


@pytest.mark.parametrize('options, message', [
    ({'dtype': 'float8'}, "'float8'.*'bfloat16'"), ({'accumulate': 0}, 'accumulate is 0'),
    ({'accumulate': 4}, 'batch size 6 does not divide among 1 devices and 4 parts: give a multiple of 4'),
])
def test_invalid_step_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    losses(n_steps=1, **options)


def test_a_non_finite_step_is_named_with_its_learning_rate(tmp_path):
  with pytest.raises(ValueError, match=r'weights of step 1 are not finite, at learning rate \S+; no checkpoint was '
                                       r'written yet'):
    runs.run(tmp_path / 'run', 'peak_learning_rate = 1e38', 'fit.checkpoint_every = 1', 'fit.eval_every = 100')
  assert not (tmp_path / 'run').exists()  # An empty run could not be resumed.
