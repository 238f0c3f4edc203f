"""Tests the cost of a training step: FLOPs counted from the model or, failing that, estimated by the compiler."""

import jax
import jax.numpy as jnp
import numpy as np
from tests.helpers import pairs
import pytest
from trax import layers as tl
from trax import optimizers

from trax_hourglass.comparison import step_cost
from trax_hourglass.models import flops


@jax.custom_vjp
def until_small(x):
  """Halves x by matrix products until all elements are at most 1; the number of products is known only at run time."""
  return jax.lax.while_loop(lambda x: jnp.abs(x).max() > 1, lambda x: x @ (0.5 * jnp.eye(x.shape[-1])), x)


until_small.defvjp(lambda x: (until_small(x), None), lambda _, g: (g,))


def measure(*layers):
  x = pairs.tokens(6, batch=2)
  model = tl.Serial(tl.Embedding(pairs.VOCAB, 4), *layers, tl.Dense(pairs.VOCAB))
  measured = step_cost.measure(model, optimizers.SGD(0.1), (x, x, np.ones(x.shape, np.float32)), n_steps=2)
  return model, measured


def test_step_flops_are_counted_from_matrix_products():
  model, measured = measure()
  assert measured.flops_from == 'products' and measured.step_flops == 3 * 2 * 12 * 4 * pairs.VOCAB
  assert measured.step_flops == flops.training_step(model, 2, 6)
  assert measured.n_parameters == 2 * 4 * pairs.VOCAB + pairs.VOCAB
  assert measured.step_bytes > 0 and measured.step_seconds > 0


def test_flops_of_a_dynamic_loop_come_from_the_compiler():
  model, measured = measure(tl.Fn('UntilSmall', lambda x: until_small(x)))
  with pytest.raises(ValueError, match='cannot be counted'):
    flops.training_step(model, 2, 6)
  assert measured.flops_from == 'compiler' and measured.step_flops > 2 * 12 * 4 * pairs.VOCAB
