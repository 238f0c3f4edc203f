"""What is made again outside of loops: the same numbers, with less to keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trax_hourglass.ops import remat
from trax_hourglass.ops.dense import affine


def layers(activations, others):
  """Eight layers of which each keeps what the gradient needs of it."""
  x, scale = activations
  weights, key = others
  for w in weights:
    x = jnp.tanh(affine(x * scale, w, w[0])) * (key[0] > 0)
  return x


def inputs(n_rows):
  random = np.random.RandomState(0)
  x, weights = random.randn(n_rows, 16) / 4, random.randn(8, 16, 16) / 4
  return (jnp.float32(x), jnp.float32(1.5)), (list(map(jnp.float32, weights)), jnp.ones(2, jnp.uint32))


def gradients(function):
  return jax.grad(lambda activations, weights, key: (function(activations, (weights, key))**2).sum(), argnums=(0, 1))


@pytest.mark.parametrize('recompute', remat.CHOICES)
def test_values_and_gradients_are_the_same(recompute):
  activations, (weights, key) = inputs(5)
  again = remat.made_again(layers, recompute)
  np.testing.assert_array_equal(again(activations, (weights, key)), layers(activations, (weights, key)))
  results = [jax.tree.leaves(gradients(function)(activations, weights, key)) for function in (again, layers)]
  for got, expected in zip(*results):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('is_planted', [False, True])
def test_what_is_made_again_is_not_kept(is_planted, monkeypatch):
  """A checkpoint alone changes nothing: XLA takes what is made again for what there was."""
  if is_planted:
    monkeypatch.setattr(remat, 'made_again', lambda function, recompute: jax.checkpoint(function))
  activations, (weights, key) = inputs(4096)

  def temporary_bytes(recompute):
    again = remat.made_again(layers, recompute)

    def four_times(activations, others):
      x, scale = activations
      for _ in range(4):
        x = again((x, scale), others)
      return x
    compiled = jax.jit(gradients(four_times)).lower(activations, weights, key).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  if is_planted:
    assert temporary_bytes('products') == temporary_bytes('none')
  else:
    assert temporary_bytes('products') < 0.6 * temporary_bytes('none')
