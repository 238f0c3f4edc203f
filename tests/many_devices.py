"""Run by test_trax_compat.py and test_step.py in processes with several virtual devices."""

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


def train(n_devices, shard_weights, n_steps=50):
  """Returns the losses of the first steps on some of the devices, and the trainer."""
  x = pairs.tokens(6, batch=8)
  batch = (x, x, np.ones(x.shape, np.float32))
  model = tl.Serial(pairs.ours('1@1 1@3 1@1', mode='train', dropout=0.2, d_model=32, d_ff=64, n_heads=2),
                    tl.WeightedCategoryCrossEntropy())
  model.init(shapes.signature(batch), rng=jax.random.PRNGKey(0))
  optimizer = optimizers.Adam(1e-3)
  optimizer.tree_init(model.weights)
  trainer = step.Trainer(model, optimizer, devices=jax.devices()[:n_devices], shard_weights=shard_weights)
  losses = [float(trainer.one_step(batch, jax.random.PRNGKey(i), i, 1e-3)[0]) for i in range(n_steps)]
  return losses, trainer


def bytes_per_device(trainer):
  """Bytes of weights and slots on the first device."""
  return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((trainer.weights, trainer.slots)))


def our_steps():
  """1, 2, 4 and 8 devices give the same losses, with whole and with shared-out weights, whose bytes fall in proportion."""
  expected, one = train(1, False)
  assert expected[-1] < expected[0] - 0.1, 'nothing was learnt, so equal losses would say little'
  for n_devices in (2, 4, 8):
    for shard_weights in (False, True):
      losses, trainer = train(n_devices, shard_weights)
      # Sums over devices are added in another order; Adam carries that through 50 steps.
      np.testing.assert_allclose(losses, expected, rtol=1e-4, err_msg=f'{n_devices} devices, {shard_weights}')
      np.testing.assert_allclose(losses[:5], expected[:5], rtol=1e-5)
      assert all(len(w.sharding.device_set) == n_devices for w in jax.tree.leaves(trainer.weights))
      share = bytes_per_device(trainer) / bytes_per_device(one)
      # A few weights divide among no number of devices: the vocabulary's bias of 11.
      assert share == 1 if not shard_weights else 1 / n_devices <= share < 1.05 / n_devices, share
      assert trainer.update._cache_size() == 1, 'compiled more than once'
  try:
    trainer.one_step((np.zeros((3, 6), np.int32),) * 2 + (np.ones((3, 6), np.float32),), jax.random.PRNGKey(0), 0, 1e-2)
  except ValueError as error:
    assert 'batch size 3 does not divide among 8 devices' in str(error)
  else:
    raise AssertionError('a batch that does not divide was taken')


def main(part):
  """Runs one of the functions above, by name."""
  globals()[part]()
  print('all agree')
