"""Run by test_trax_compat.py in a process with two virtual devices."""

import numpy as np
import pairs
import test_trax_compat
import jax
from trax import layers as tl
from trax import optimizers
from trax import shapes

from trax_hourglass.training import step


def trax_loop():
  """Trax's loop trains by pmap; without either patch it does not."""
  trained = test_trax_compat.loop()
  assert trained.n_devices == 2
  trained.run(3)
  for patch in ('device_put_replicated', 'pmap'):
    try:
      with test_trax_compat.without(patch):
        test_trax_compat.loop().run(3)
    except (AttributeError, ValueError):
      continue
    raise AssertionError(f'works without {patch}')


def our_step():
  """One device of the two and both give the same losses and weights."""
  x = pairs.tokens(6, batch=4)
  batch = (x, x, np.ones(x.shape, np.float32))
  results = []
  for devices in (jax.devices()[:1], jax.devices()):
    model = tl.Serial(pairs.ours('1@1 1@3 1@1', mode='train', dropout=0.2), tl.WeightedCategoryCrossEntropy())
    model.init(shapes.signature(batch), rng=jax.random.PRNGKey(0))
    optimizer = optimizers.Adam(1e-2)
    optimizer.tree_init(model.weights)
    trainer = step.Trainer(model, optimizer, devices=devices)
    losses = [float(trainer.one_step(batch, jax.random.PRNGKey(i), i, 1e-2)[0]) for i in range(3)]
    results.append((losses, jax.tree.leaves(model.weights)))
  (one_loss, one), (two_loss, two) = results
  np.testing.assert_allclose(one_loss, two_loss, rtol=1e-5)
  assert all(len(w.sharding.device_set) == 2 for w in two)
  for a, b in zip(one, two):
    np.testing.assert_allclose(a, b, atol=1e-4)
  try:
    trainer.one_step(tuple(a[:3] for a in batch), jax.random.PRNGKey(0), 0, 1e-2)
  except ValueError as error:
    assert 'batch size 3 does not divide among 2 devices' in str(error)
  else:
    raise AssertionError('a batch that does not divide was taken')


def main():
  trax_loop()
  our_step()
  print('all agree')
