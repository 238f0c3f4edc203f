"""Tests remat within and outside of loops: equal values, less kept memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trax_hourglass.ops import remat
from trax_hourglass.ops.dense import affine


def layers(inputs, key):
  """Applies eight layers, each of which keeps values for its gradient."""
  x, scale, weights = inputs
  for w in weights:
    x = jnp.tanh(affine(x * scale, w, w[0])) * (key[0] > 0)
  return x, key


def inputs(n_rows):
  random = np.random.RandomState(0)
  x, weights = random.randn(n_rows, 16) / 4, random.randn(8, 16, 16) / 4
  return (jnp.float32(x), jnp.float32(1.5), list(map(jnp.float32, weights))), jnp.ones(2, jnp.uint32)


def gradients(function):
  return jax.grad(lambda inputs, key: (function(inputs, key)[0]**2).sum())


@pytest.mark.parametrize('recompute', remat.CHOICES)
def test_policies_give_equal_values_and_gradients(recompute):
  given = inputs(5)
  again = remat.made_again(layers, recompute)
  np.testing.assert_array_equal(again(*given)[0], layers(*given)[0])
  results = [jax.tree.leaves(gradients(function)(*given)) for function in (again, layers)]
  for got, expected in zip(*results):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('is_planted', [False, True])
def test_policies_keep_only_what_they_name(is_planted, monkeypatch):
  """jax.checkpoint alone changes nothing here: XLA merges recomputed values with the original ones."""
  if is_planted:
    monkeypatch.setattr(remat, 'made_again', lambda function, recompute: jax.checkpoint(function))
  given = inputs(4096)

  def temporary_bytes(recompute):
    again = remat.made_again(layers, recompute)

    def four_times(inputs, key):
      x, *others = inputs
      for _ in range(4):
        x, key = again((x, *others), key)
      return x, key
    compiled = jax.jit(gradients(four_times)).lower(*given).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  if is_planted:
    assert temporary_bytes('products') == temporary_bytes('none')
  else:
    assert temporary_bytes('products') < 0.6 * temporary_bytes('none')


def turn(x, scale, own, others):
  """Applies a layer of a loop: x (B, 16), own (16, 16) and (B,)."""
  w, bias = own
  number, key = others
  return jnp.tanh(affine(x * scale, w, w[0])) * (key[0] > 0) + bias[:, None], (number + 1, key)


@pytest.mark.parametrize('n', [1, 4])
@pytest.mark.parametrize('n_unrolled', [1, 4])
@pytest.mark.parametrize('recompute', remat.CHOICES)
def test_looped_equals_a_plain_loop(recompute, n_unrolled, n, monkeypatch):
  """Tests loops of several layers and of one, scanned as on CPUs and unrolled as on accelerators."""
  monkeypatch.setattr(remat, '_UNROLLED', {'cpu': n_unrolled})
  random = np.random.RandomState(0)
  own = jnp.float32(random.randn(n, 16, 16) / 4), jnp.float32(random.randn(n, 5))
  x, scale, others = jnp.float32(random.randn(5, 16)), jnp.float32(1.5), (jnp.arange(n), jnp.ones((n, 2), jnp.uint32))

  def plain(x, scale, own, others):
    new = []
    for i in range(n):
      x, new_turn = turn(x, scale, *jax.tree.map(lambda x, i=i: x[i], (own, others)))
      new.append(new_turn)
    return x, jax.tree.map(lambda *x: jnp.stack(x), *new)

  def loss(function, x, scale, own):
    return (function(x, scale, own, others)[0]**2).sum()

  loop = remat.looped(turn, recompute)
  both = (jax.tree.leaves(function(x, scale, own, others)) for function in (loop, plain))
  for got, expected in zip(*both, strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
  results = (jax.tree.leaves(jax.grad(loss, argnums=(1, 2, 3))(f, x, scale, own)) for f in (loop, plain))
  for got, expected in zip(*results, strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_gradient_stacks_are_allocated_by_their_loop():
  """With `jax.lax.scan`, XLA allocates the zeros of all loops when the step begins: of four loops, four at the peak."""
  def body(x, _, w, others):
    return jnp.tanh(affine(x, w, w[0])), others

  def plain(x, _, own, others):
    return jax.lax.scan(lambda x, turn: jax.checkpoint(body)(x, None, *turn), x, (own, others))

  def temporary_bytes(loop):
    def loss(x, stacks):
      for own in stacks:
        x, _ = loop(x, None, own, jnp.arange(16))
      return x.sum()

    def step(x, stacks):
      return [w - g for w, g in zip(stacks, jax.grad(loss, argnums=1)(x, stacks))]

    shape = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
    lowered = jax.jit(step, donate_argnums=1).lower(shape(64, 64), [shape(16, 64, 64)] * 4)
    return lowered.compile().memory_analysis().temp_size_in_bytes

  assert temporary_bytes(remat.looped(body, 'blocks')) < 0.75 * temporary_bytes(plain)
