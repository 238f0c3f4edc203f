"""Builds the training step of a configuration from shapes alone, for devices that need not be present.

Letters: B batch, L tokens.
"""

import jax
import jax.numpy as jnp
import numpy as np
from trax import layers as tl
from trax import shapes

from trax_hourglass.layers import loss as loss_lib
from trax_hourglass.layers import scan
from trax_hourglass.runtime import checks
from trax_hourglass.runtime import sharding
from trax_hourglass.training import level_rates
from trax_hourglass.training import step as step_lib


class StepProgram:
  """Holds a training step without any arrays.

  Attributes:
    model: language model in mode 'train', with shapes as weights and state.
    weights, state, slots: trees of shapes, both arguments and results of a step.
    trainer: the Trainer of the step, with shapes in place of arrays.
  """

  def __init__(self, settings, mesh):
    """Traces the initialisation of model and optimizer.

    Args:
      settings: training.settings.Settings; no data are read.
      mesh: a `Mesh`, or an `AbstractMesh` that names the platform to trace for.

    Raises:
      InputError: the settings are invalid, or the batch does not divide among the devices.
    """
    self._mesh, shape = mesh, (settings.batch_size, settings.length)
    checks.check_sizes(batch_size=settings.batch_size, length=settings.length, n_steps=settings.n_steps)
    step_lib.check_options(settings.batch_size, mesh.size, settings.dtype, settings.accumulate)
    self._batch = tuple(jax.ShapeDtypeStruct(shape, dtype) for dtype in (np.int32, np.int32, np.float32))
    signature = tuple(shapes.ShapeDtype(shape, x.dtype) for x in self._batch)
    self.model, optimizer = settings.model(mode='train'), settings.optimizer
    loss_lib.check_chunk(self.model, settings.loss_chunk)

    def initialised():
      self.model.init(signature[0])
      layer = (tl.Serial(self.model, tl.WeightedCategoryCrossEntropy()) if settings.loss_chunk is None else
               loss_lib.LossInChunks(self.model, settings.loss_chunk))
      layer.init(signature)
      level_rates.initialise(optimizer, layer.weights, self.model)
      made.append(layer)
      return layer.weights, layer.state, optimizer.slots, self.model.weights, self.model.state

    made = []
    self.weights, self.state, self.slots, *of_model = scan.initialised_shapes(initialised)
    layer, = made
    self.model.weights, self.model.state = of_model
    layer.weights, layer.state, optimizer.slots = self.weights, self.state, self.slots
    self.trainer = step_lib.Trainer(layer, optimizer, mesh, settings.dtype, settings.accumulate, settings.shard_weights)
    self._opt_params = optimizer.opt_params

  def traced(self):
    """Returns the traced step, as from `jax.jit(step).trace(...)`; `.lower().compile()` compiles for the mesh."""
    return self.trainer.update.trace(*self.arguments())

  def arguments(self):
    """Returns the shapes of a step's arguments, with their shardings on the mesh."""
    everywhere, rows = sharding.everywhere(self._mesh), sharding.along(self._mesh, 0)

    def placed(tree, where):
      of = lambda x: jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.canonicalize_dtype(jnp.result_type(x)),
                                          sharding=where(x))
      return jax.tree.map(of, tree)

    scalars = np.int32(1), {**self._opt_params, 'learning_rate': np.float32(0)}, np.zeros(2, np.uint32)
    return (placed((self.weights, self.state, self.slots), self.trainer.sharding), placed(self._batch, lambda _: rows),
            *placed(scalars, lambda _: everywhere))
