"""Trains on several virtual devices in child processes: `main([PART])` or `main([PART, COORDINATOR, N_HOSTS,
HOST])`.
"""

import functools
import gc
import json

from trax_hourglass.runtime import distributed

import jax
import numpy as np
import pytest
from trax import layers as tl
from trax import optimizers
from trax import shapes

from tests.helpers import attention_inputs
from tests.helpers import corpora
from tests.helpers import pairs
from tests.helpers import trax_loop as trax_loop_lib
from trax_hourglass.data import batches
from trax_hourglass.ops import attention
from trax_hourglass.ops import tpu_layout
from trax_hourglass.ops import tpu_tile
from trax_hourglass.runtime import sharding
from trax_hourglass.training import step


def trax_loop():
  """Trains by pmap in Trax's loop, Trax's model and ours; without either patch this fails."""
  trained = trax_loop_lib.loop()
  assert trained.n_devices == 2
  trained.run(3)
  for patch in ('device_put_replicated', 'pmap'):
    try:
      with trax_loop_lib.without(patch):
        trax_loop_lib.loop().run(3)
    except (AttributeError, ValueError):
      continue
    raise AssertionError(f'works without {patch}')
  losses = []
  for make_trainer in optimizers.Trainer, lambda *layer_and_optimizer: step.Trainer(*layer_and_optimizer,
                                                                                    sharding.over_devices(2)):
    batch = pairs.tokens(6, batch=4), pairs.tokens(6, batch=4), np.ones((4, 6), np.float32)
    layer = tl.Serial(pairs.ours(*SMALL, mode='train', dropout=0.0), tl.WeightedCategoryCrossEntropy())
    layer.init(shapes.signature(batch), rng=jax.random.PRNGKey(0))
    optimizer = optimizers.Adam(1e-2)
    optimizer.tree_init(layer.weights)
    trainer = make_trainer(layer, optimizer)
    losses.append([float(np.mean(trainer.one_step(batch, jax.random.PRNGKey(i), i, 1e-2)[0])) for i in (1, 2)])
  np.testing.assert_allclose(*losses, rtol=1e-5)


# Few different layers, so that many settings compile in little time, and the default resamplings.
SMALL = ('0@1 1@3 0@1', 'linear', 'linear')
WHOLE = ('0@1 1@3 0@1',)


def train(n_devices, shard_weights, n_steps, model, **options):
  """Returns the losses of the first steps on some of the devices, and the trainer."""
  windows = batches.RandomWindows(corpora.Numbers(40), 8, 6, 0, 256, jax.process_index(), jax.process_count())
  layer = pairs.ours(*model, mode='train', dropout=0.2, d_model=32, d_ff=64, n_heads=2, vocab_size=64)
  layer = tl.Serial(layer, tl.WeightedCategoryCrossEntropy())
  layer.init(shapes.signature(next(windows)), rng=jax.random.PRNGKey(0))
  optimizer = optimizers.Adam(1e-3)
  optimizer.tree_init(layer.weights)
  trainer = step.Trainer(layer, optimizer, sharding.over_devices(n_devices), shard_weights=shard_weights, **options)
  losses = [float(trainer.one_step(next(windows), np.array([0, i], np.uint32), i, 1e-3)[0]) for i in range(n_steps)]
  assert trainer.update._cache_size() == 1, 'compiled more than once'
  assert all(len(w.sharding.device_set) == n_devices for w in jax.tree.leaves(layer.weights))
  return losses, trainer


def bytes_per_device(trainer):
  """Returns the bytes of weights and slots on this host's first device; no other array of that size is alive."""
  held = trainer.model_with_loss.weights, trainer.slots
  total = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(held))
  gc.collect()
  device = jax.local_devices()[0]
  shards = [shard.data for array in jax.live_arrays() for shard in array.addressable_shards if shard.device == device]
  alive = sum({shard.unsafe_buffer_pointer(): shard.nbytes for shard in shards}.values())  # Some arrays share a buffer.
  assert total <= alive < total + 20_000, (total, alive)
  return total


def attention_of_own_rows():
  """Compares attention on two devices with one: equal values, gradients and masks, and no all-gather, for each form."""
  devices = sharding.over_devices(2)
  arrays, _ = attention_inputs.inputs(3, 1, 3)
  rows = [sharding.along(devices, 0)] * 3 + [sharding.everywhere(devices)] * 3
  with pytest.MonkeyPatch.context() as patch:  # By default CPUs run tiles only.
    patch.setattr(attention, '_taken', lambda form, *_: form)
    patch.setattr(tpu_tile, 'STRIP', 8)
    patch.setattr(tpu_tile, 'LANES', 8)
    patch.setattr(tpu_layout, '_BLOCKS', (8,))
    for form, rate in (('tiles', 0.3), ('tpu', 0.3), ('cudnn', 0.0)):
      function = functools.partial(attention.relative_attention, rate=rate, key=jax.random.PRNGKey(5), form=form)
      def both(*arrays, function=function):
        out, pull = jax.vjp(function, *arrays)
        return out, *pull(2 * out)

      def divided(*arrays, both=both):
        with sharding.divided(devices):
          return both(*arrays)

      compiled = jax.jit(divided, in_shardings=rows).lower(*arrays).compile()
      assert 'all-gather' not in compiled.as_text()
      for got, expected in zip(compiled(*map(jax.device_put, arrays, rows)), both(*arrays)):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * float(np.abs(expected).max()))


def our_steps(numbers=(1, 4), is_thorough=False):
  """Prints losses by setting; asserts that with FSDP the bytes of weights and slots divide by the number of devices."""
  if jax.process_count() == 1:
    attention_of_own_rows()
  losses = {}
  for n_devices in numbers:
    if n_devices % jax.process_count():
      continue
    # With whole weights, several hosts run the same program as one.
    for shard_weights in (False, True)[:n_devices] if is_thorough or jax.process_count() == 1 else (True,):
      key = f'small, {n_devices} devices, shared out: {shard_weights}'
      losses[key], trainer = train(n_devices, shard_weights, 50, SMALL)
      whole = sum(leaf.nbytes for leaf in jax.tree.leaves((trainer.model_with_loss.weights, trainer.slots)))
      share = bytes_per_device(trainer) / whole * (n_devices if shard_weights else 1)
      assert 1 <= share < (1.05 if shard_weights else 1.0001), share  # All but Adam's few scalars divide.
  if is_thorough and jax.process_count() == 1:  # The compiled program does not depend on the number of processes.
    for n_devices, shard_weights in ((1, False), (numbers[-1], True)):
      losses[f'whole, {n_devices} devices, shared out: {shard_weights}'], trainer = train(
          n_devices, shard_weights, 5, WHOLE)
  try:
    trainer.one_step((np.zeros((3, 6), np.int32),) * 2 + (np.ones((3, 6), np.float32),), np.zeros(2, np.uint32), 0,
                     1e-2)
  except ValueError as error:
    assert f'batch size {3 * jax.process_count()} does not divide among {numbers[-1]} devices' in str(error)
  else:
    raise AssertionError('a batch that does not divide was taken')
  options_by_name = {'bfloat16 and accumulate': {'dtype': 'bfloat16', 'accumulate': 2}}
  if is_thorough:
    options_by_name |= {'accumulate': {'accumulate': 2}, 'bfloat16': {'dtype': 'bfloat16'}}
  elif jax.process_count() > 1:
    options_by_name = {}
  for name, options in options_by_name.items():
    for n_devices, shard_weights in ((1, False), (2, True)):
      if n_devices % jax.process_count() == 0:
        key = f'{name}, {n_devices} devices, shared out: {shard_weights}'
        losses[key] = train(n_devices, shard_weights, 50, SMALL, **options)[0]
  if distributed.is_first():
    print(json.dumps(losses))


def main(arguments):
  """Runs a part, on the host that the arguments name if there are several."""
  part, *host = arguments
  if host:
    distributed.connect(host[0], int(host[1]), int(host[2]), seconds=120)
  {'trax_loop': trax_loop, 'our_steps': our_steps, 'all_our_steps': lambda: our_steps((1, 2, 4, 8), True)}[part]()
