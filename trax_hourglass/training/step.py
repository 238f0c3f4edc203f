"""Compiles a training step as one function over a mesh of devices, behind the interface of Trax's trainers.

A batch is sharded over the devices. Weights and optimizer slots are replicated, or sharded (FSDP, arXiv 2004.13336), in
which case XLA gathers a layer on demand. The inputs are donated, so that only one copy of weights and slots exists, and
the outputs stay on the devices.

Letters: B batch, L tokens.
"""

import contextlib

import jax
import numpy as np
from trax.fastmath import numpy as jnp
from trax.optimizers.base import l2_norm

from trax_hourglass.layers import scan
from trax_hourglass.layers import trax_random
from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import sharding as mesh_lib
from trax_hourglass.training import checkpoints
from trax_hourglass.training import level_rates


DTYPES = ('float32', 'bfloat16')


def check_options(batch_size, n_devices, dtype, accumulate):
  """Raises InputError for an unknown dtype, `accumulate` below 1, or a batch that does not divide."""
  if dtype not in DTYPES:
    raise InputError(f'dtype is {dtype!r}: choose one of {", ".join(map(repr, DTYPES))}')
  checks.check_sizes(accumulate=accumulate)
  if batch_size % (n_devices * accumulate):
    parts = f' and {accumulate} parts' if accumulate > 1 else ''
    raise InputError(f'batch size {batch_size} does not divide among {n_devices} devices{parts}: give a multiple of '
                     f'{n_devices * accumulate}')


def _l2_norm(arrays):
  """Returns the result of Trax's `l2_norm` without flattening arrays, for which FSDP would gather them."""
  return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in arrays))


class Trainer:
  """Serves `trax.supervised.training.Loop` as its trainer: `one_step`, `slots`, and the model with its weights."""

  def __init__(self, model_with_loss, optimizer, mesh=None, dtype='float32', accumulate=1, shard_weights=False,
               skip_non_finite=False):
    """Creates the trainer.

    Args:
      model_with_loss: initialised layer from a batch (tokens (B, L), targets (B, L), weights (B, L)) to the loss.
      optimizer: Trax optimizer after `tree_init`, whose slots the trainer takes over.
      mesh: the devices to train on, see sharding.py; None for all devices.
      dtype: 'float32', or 'bfloat16' for the model's matrix products and activations, for which weights are rounded.
        Trained weights, slots, norms, softmax and loss are always float32.
      accumulate: number of parts (micro-batches) of a batch, which run in sequence and whose gradients are summed.
        More parts need less memory for activations; the result stays the same except for rounding and dropout.
      shard_weights: whether each device holds only its shard of weights and slots (FSDP).
      skip_non_finite: whether a step with a loss or gradient that is not finite changes nothing.
    """
    self._dtype, self._accumulate, self._shard_weights = dtype, accumulate, shard_weights
    self._skip_non_finite = skip_non_finite
    self._mesh = mesh or mesh_lib.over_devices()
    self.model_with_loss = model_with_loss
    self._optimizer = optimizer
    if shard_weights:
      level_rates.innermost(optimizer)._l2_norm = _l2_norm  # pylint: disable=protected-access
    self._opt_params = optimizer.opt_params
    self._slots, optimizer.slots = optimizer.slots, None  # A second reference would keep the initial slots forever.
    self._on_devices = None
    self.update = jax.jit(self._update, donate_argnums=0)

  def _update(self, weights_state_slots, batch, step, opt_params, rng):
    weights, state, slots = weights_state_slots
    with mesh_lib.divided(self._mesh, self._shard_weights):
      loss, state, gradients = self._loss_and_gradients(weights, state, batch, rng)
    weights, slots, stats = self._optimizer.tree_update(step, gradients, weights, slots, opt_params, store_slots=False)
    updated = weights, state, slots
    if self._skip_non_finite:
      is_finite = jnp.isfinite(loss) & jnp.isfinite(stats['gradients_l2'])
      updated = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), updated, weights_state_slots)
      stats['skipped'] = 1.0 - is_finite
    # Trax's norm is of the weights before the step; that of the updated ones also shows whether they are finite.
    stats['weights_l2'] = (_l2_norm if self._shard_weights else l2_norm)(jax.tree.leaves(updated[0]))
    updated = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, self.sharding(x)), updated)
    return updated, {**stats, 'loss': loss}

  def _loss_and_gradients(self, weights, state, batch, rng):
    """Returns (loss, state, gradients) of a batch, computed in `accumulate` parts."""
    def loss_and_state(weights, state, part, rng):
      weights = scan.cast_outside(self.model_with_loss, weights, self._dtype)
      weights = scan.gathered_outside(self.model_with_loss, weights)
      with trax_random.cheap_splits():
        return self.model_with_loss.pure_fn(part, weights, state, rng)

    differentiate = jax.value_and_grad(loss_and_state, has_aux=True)
    if self._accumulate == 1:
      (loss, state), gradients = differentiate(weights, state, batch, rng)
      return loss, state, gradients

    def add_part(sums, part_and_number):
      part, number = part_and_number
      total, loss, state, gradients = sums
      (part_loss, state), part_gradients = differentiate(weights, state, part, jax.random.fold_in(rng, number))
      share = part[-1].sum()  # A part's loss is a mean over its token weights, and NaN if all of them are 0.
      add = lambda sum_, mean: sum_ + jnp.where(share == 0, 0, share * mean)
      gradients = jax.tree.map(add, gradients, part_gradients)
      return (total + share, add(loss, part_loss), state, gradients), None

    # Every accumulate-th row, so that each part has rows of every device and no row moves.
    parts = jax.tree.map(lambda x: x.reshape(-1, self._accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
    nothing = np.float32(0.0), np.float32(0.0), state, jax.tree.map(jnp.zeros_like, weights)
    (total, loss, state, gradients), _ = jax.lax.scan(add_part, nothing, (parts, np.arange(self._accumulate)))
    return loss / total, state, jax.tree.map(lambda g: g / total, gradients)

  def sharding(self, x):
    """Returns the sharding of a weight, slot or state: replicated, or sharded with FSDP."""
    return mesh_lib.share(self._mesh, np.shape(x)) if self._shard_weights else mesh_lib.everywhere(self._mesh)

  def arguments(self, batch, rng, step, learning_rate):
    """Returns the arguments of `update` for one step, on the devices and always with the same types.

    Raises:
      InputError: an invalid option, or a batch that does not divide among the devices and parts.
    """
    check_options(batch[0].shape[0] * jax.process_count(), self._mesh.size, self._dtype, self._accumulate)
    if self._on_devices is None:
      # Copies, since donation would delete arrays that others may hold.
      self._on_devices = jax.tree.map(lambda x: mesh_lib.place(x, self.sharding(x)), self._held())
      self._hold(self._on_devices)
    with np.errstate(over='ignore'):  # The loop reports an infinite rate.
      scalars = (np.int32(step), {**self._opt_params, 'learning_rate': np.float32(learning_rate)}, rng)
    scalars = jax.tree.map(lambda x: mesh_lib.place(x, mesh_lib.everywhere(self._mesh)), scalars)
    return (self._on_devices, mesh_lib.place_rows(batch, self._mesh), *scalars)

  def one_step(self, batch, rng, step=0, learning_rate=None):
    """Updates weights, state and slots by one step.

    Args:
      batch: tuple of arrays with this host's rows, leading axis B / hosts.
      rng: PRNG key, uint32 (2,), a NumPy array: reading a key from a device would wait for the previous step.
      step: number of this step; Adam's bias correction counts from it.
      learning_rate: this step's learning rate, or None for the optimizer's own.

    Returns:
      (loss, statistics), this host's copies, both still on a device.
    """
    if learning_rate is None:
      learning_rate = self._opt_params['learning_rate']
    self._on_devices, stats = self.update(*self.arguments(batch, rng, step, learning_rate))
    self._hold(self._on_devices)
    stats = mesh_lib.own_copy(stats)
    return stats['loss'], stats

  @contextlib.contextmanager
  def holding(self, arrays):
    """Replaces the arrays of model and slots by others within the context.

    Args:
      arrays: arrays in the form that `arrays` returns, on this host.
    """
    held = self._held()
    self._hold(self._as_trees(arrays))
    try:
      yield
    finally:
      self._hold(held)

  def arrays(self):
    """Returns {'weights': [...], 'state': [...], 'slots': [...]}, all arrays that a step updates."""
    return dict(zip(checkpoints.PARTS, map(jax.tree.leaves, self._held())))

  def take(self, arrays):
    """Continues from arrays in the form that `arrays` returns, sharded as by `sharding`."""
    self._on_devices = self._as_trees(arrays)
    self._hold(self._on_devices)

  def _as_trees(self, arrays):
    return tuple(jax.tree.unflatten(jax.tree.structure(held), arrays[part])
                 for part, held in zip(checkpoints.PARTS, self._held()))

  def _held(self):
    return self.model_with_loss.weights, self.model_with_loss.state, self._slots

  def _hold(self, weights_state_slots):
    self.model_with_loss.weights, self.model_with_loss.state, self._slots = weights_state_slots

  @property
  def accelerated_model_with_loss(self):
    """Returns this trainer, to which Trax's loop passes weights that were changed outside of training."""
    return self

  def replicate_weights(self, weights):
    """Sets weights that were changed outside of training."""
    self.model_with_loss.weights = weights
    self._on_devices = None

  def replicate_state(self, state):
    """Sets state that was changed outside of training."""
    self.model_with_loss.state = state
    self._on_devices = None

  @property
  def slots(self):
    """Returns the optimizer's slots, flat as in Trax."""
    return self._slots

  @slots.setter
  def slots(self, slots):
    self._slots = slots
    self._on_devices = None
