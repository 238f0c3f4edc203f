"""Measures FLOPs, memory and time of a training step."""

import dataclasses
import os
import platform
import statistics
import time

import jax
import numpy as np
from trax import layers as tl
from trax import shapes

from trax_hourglass.layers import loss as loss_lib
from trax_hourglass.models import flops
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.training import level_rates
from trax_hourglass.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class Measurement:
  """Holds the costs of a training step: forward pass, backward pass and optimizer.

  Attributes:
    n_parameters: number of trained parameters.
    step_flops: floating-point operations per step.
    flops_from: 'products', counted as in flops.py, or 'compiler', XLA's estimate. The estimate is for models that
      flops.py cannot count, and is too low, since XLA counts each loop as one iteration.
    step_bytes: temporary memory of the compiled step on each device.
    step_seconds: mean over the timed steps, since steps of one model may differ (factor_dropout.py). With a budget of
      seconds, a comparison replaces it by the median of several means.
  """
  n_parameters: int
  step_flops: float
  flops_from: str
  step_bytes: int
  step_seconds: float


def measure(model, optimizer, batch, n_steps, loss_chunk=None, **trainer_options):
  """Returns the Measurement of a model, by training steps with learning rate 0.

  Args:
    model: language model in mode 'train', not initialised.
    optimizer: Trax optimizer.
    batch: (tokens (B, L), targets (B, L), weights (B, L)).
    n_steps: number of timed steps, after one untimed step.
    loss_chunk: see loss.py.
    **trainer_options: further arguments of `step.Trainer`, by name.
  """
  model.init(shapes.signature(batch[0]))
  layers = model, tl.WeightedCategoryCrossEntropy()
  model_with_loss = tl.Serial(*layers) if loss_chunk is None else loss_lib.LossInChunks(model, loss_chunk)
  model_with_loss.init(shapes.signature(batch))
  level_rates.initialise(optimizer, model_with_loss.weights, model)
  trainer = step_lib.Trainer(model_with_loss, optimizer, **trainer_options)

  def arguments(step):
    return trainer.arguments(batch, np.array([0, step], np.uint32), step, 0.0)

  held, *rest = arguments(1)
  compiled = trainer.update.lower(held, *rest).compile()
  seconds = []
  for step in range(1, n_steps + 2):
    started = time.perf_counter()
    held, _ = jax.block_until_ready(compiled(held, *arguments(step)[1:]))
    seconds.append(time.perf_counter() - started)

  try:
    operations, source = flops.training_step(model, *batch[0].shape), 'products'
  except InputError:
    operations, source = float(compiled.cost_analysis()['flops']), 'compiler'
  return Measurement(
      n_parameters=sum(w.size for w in jax.tree.leaves(model.weights)),
      step_flops=operations,
      flops_from=source,
      step_bytes=compiled.memory_analysis().temp_size_in_bytes,
      step_seconds=statistics.fmean(seconds[1:]))


def machine():
  """Returns a description of the machine and its software."""
  device = jax.devices()[0]
  return {'device': f'{device.platform} {device.device_kind}', 'devices': jax.device_count(), 'cores': os.cpu_count(),
          'machine': platform.machine(), 'jax': jax.__version__, 'python': platform.python_version()}
