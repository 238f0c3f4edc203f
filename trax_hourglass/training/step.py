"""One training step as one compiled function over all local devices, behind the interface of Trax's trainers.

Weights, optimizer slots and state lie on every device, a batch is divided among them; XLA adds the gradients up. What
goes in is donated, so that only one copy of weights and slots exists, and what comes out stays on the devices.
"""

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
from trax.fastmath import numpy as jnp


class Trainer:
  """What `trax.supervised.training.Loop` asks of a trainer: `one_step`, `slots`, and the model with its weights."""

  def __init__(self, model_with_loss, optimizer, devices=None):
    """Creates the trainer.

    Args:
      model_with_loss: initialised layer from a batch (tokens (B, L), targets (B, L), weights (B, L)) to the loss.
      optimizer: Trax optimizer with slots (`tree_init` was called).
      devices: devices to train on; None for all of this host.
    """
    # Trax's layers mix arrays without saying how they are sharded, which explicit axes would refuse.
    mesh = Mesh(np.array(devices or jax.local_devices()), ('batch',), axis_types=(AxisType.Auto,))
    self._everywhere = NamedSharding(mesh, PartitionSpec())
    self._by_row = NamedSharding(mesh, PartitionSpec('batch'))
    self.model_with_loss = model_with_loss
    self._optimizer = optimizer
    self._opt_params = optimizer.opt_params
    self._slots = optimizer.slots
    self._on_devices = None
    self.update = jax.jit(self._update, donate_argnums=0)

  def _update(self, weights_state_slots, batch, step, opt_params, rng):
    weights, state, slots = weights_state_slots

    def loss_and_state(weights):
      return self.model_with_loss.pure_fn(batch, weights, state, rng)

    (loss, state), gradients = jax.value_and_grad(loss_and_state, has_aux=True)(weights)
    weights, slots, stats = self._optimizer.tree_update(step, gradients, weights, slots, opt_params, store_slots=False)
    return (weights, state, slots), {**stats, 'loss': loss}

  def arguments(self, batch, rng, step, learning_rate):
    """Returns the arguments of `update` for one step, on the devices and always of the same types.

    Raises:
      ValueError: the batch does not divide among the devices.
    """
    n_devices = self._by_row.mesh.size
    if batch[0].shape[0] % n_devices:
      raise ValueError(f'batch size {batch[0].shape[0]} does not divide among {n_devices} devices')
    if self._on_devices is None:
      own = self.model_with_loss.weights, self.model_with_loss.state, self._slots
      # A copy: donating would take these arrays away from whoever else holds them.
      self._on_devices = jax.tree.map(lambda x: jax.device_put(jnp.array(x), self._everywhere), own)
    scalars = (np.int32(step), {**self._opt_params, 'learning_rate': np.float32(learning_rate)}, rng)
    return (self._on_devices, jax.device_put(batch, self._by_row), *jax.device_put(scalars, self._everywhere))

  def one_step(self, batch, rng, step=0, learning_rate=None):
    """Updates weights, state and slots by one step.

    Args:
      batch: tuple of arrays with leading axis B.
      rng: JAX PRNG key, uint32 (2,).
      step: number of this step; Adam's bias correction counts from it.
      learning_rate: this step's learning rate, or None for the optimizer's own.

    Returns:
      (loss, statistics), both on the devices.
    """
    if learning_rate is None:
      learning_rate = self._opt_params['learning_rate']
    self._on_devices, stats = self.update(*self.arguments(batch, rng, step, learning_rate))
    self.model_with_loss.weights, self.model_with_loss.state, self._slots = self._on_devices
    return stats['loss'], stats

  @property
  def accelerated_model_with_loss(self):
    """This trainer, as the holder of weights and state that Trax's loop reads when it evaluates."""
    return self

  @property
  def weights(self):
    """Weights of model and loss."""
    return self.model_with_loss.weights

  @property
  def state(self):
    """State of model and loss."""
    return self.model_with_loss.state

  def replicate_weights(self, weights):
    """Takes over weights that were changed outside of training."""
    self.model_with_loss.weights = weights
    self._on_devices = None

  def replicate_state(self, state):
    """Takes over state that was changed outside of training."""
    self.model_with_loss.state = state
    self._on_devices = None

  @property
  def slots(self):
    """The optimizer's slots, flat, as Trax has them."""
    return self._slots

  @slots.setter
  def slots(self, slots):
    self._slots = self._optimizer.slots = slots
    self._on_devices = None
