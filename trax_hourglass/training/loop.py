"""Trax's training loop around our step: tasks, history, checkpoints and TensorBoard stay Trax's."""

import contextlib
import math
from unittest import mock

import jax
import numpy as np
from trax import layers as tl
from trax import shapes
from trax.fastmath import random
from trax.supervised import training

from trax_hourglass import hosts
from trax_hourglass import loss as loss_lib
from trax_hourglass import mesh as mesh_lib
from trax_hourglass.training import step as step_lib


class Loop(training.Loop):
  """`trax.supervised.training.Loop` whose step is one compiled function and whose randomness is one of (seed, step).

  It runs on all hosts alike; the first alone writes.
  """

  def __init__(self, model, task, eval_model, evaluate, random_seed, mesh=None, loss_chunk=None, trainer_options=None,
               **options):
    """Creates the loop, initialises the models and loads the output directory's checkpoint if there is one.

    Args:
      model: the model in mode 'train'.
      task: a TrainTask.
      eval_model: the model in mode 'eval'.
      evaluate: function (weights, state) of the model -> {metric: value}.
      random_seed: seed of weights and dropout.
      mesh: the devices, see mesh.py; None for all there are.
      loss_chunk: tokens of a sequence whose logits exist at a time, see loss.py; None for all.
      trainer_options: arguments of `step.Trainer` by name: dtype, accumulate, shard_weights.
      **options: further arguments of Trax's loop, by name.

    Raises:
      ValueError: a `loss_chunk` that the model cannot be trained by, or a checkpoint that only some hosts can see.
    """
    loss_lib.check_chunk(model, loss_chunk)
    self.loss = None
    self._unchecked = []  # (step, learning rate, loss, gradients' length) since `check_finite`, on the device.
    self._evaluate = evaluate
    self._loss_chunk = loss_chunk
    self._trainer_options = {'mesh': mesh or mesh_lib.over_devices(), **(trainer_options or {})}
    self._seed = random_seed
    model.init(shapes.signature(task.sample_batch[0]), rng=random.get_prng(random_seed))
    eval_model.weights, eval_model.state = model.weights, model.state
    # Our step divides a batch among devices by itself; the loop sees one.
    with mock.patch.object(training, 'init_host_and_devices', _as_one_device):
      super().__init__(model, task, eval_model=eval_model, eval_tasks=[], random_seed=random_seed, **options)
    if self._output_dir is not None:
      self._output_dir_per_eval_task = [self._output_dir]
    self._saved_step = self.step or None  # A resumed run's.
    hosts.check_same(f'the step to go on from in {self._output_dir}', self.step)

  def _init_trainer(self, task):
    if self._loss_chunk is None:
      model = training._model_with_ends(self._model, [task.loss_layer], shapes.signature(task.sample_batch))
    else:
      model = loss_lib.LossInChunks(self._model, self._loss_chunk)
    task.optimizer.tree_init(model.weights)
    return step_lib.Trainer(model, task.optimizer, **self._trainer_options)

  def _run_one_step(self, task_index, task_changed):
    step, task = self.step, self._tasks[task_index]
    for callback in self._callbacks:
      if callback.call_at(step):
        callback.on_step_begin(step)
    learning_rate = task.learning_rate(step)
    self.loss, stats = self._trainer_per_task[task_index].one_step(
        task.next_batch(), _dropout_rng(self._seed, step), step=step, learning_rate=learning_rate)
    self._unchecked.append((step, learning_rate, self.loss, stats['gradients_l2']))
    for callback in self._callbacks:
      if callback.call_at(step):
        callback.on_step_end(step)
    return self.loss, stats

  def check_finite(self):
    """Raises ValueError if a loss or gradient since the last call was not finite; waits for the device."""
    unchecked, self._unchecked = self._unchecked, []
    for step, learning_rate, *values in unchecked:
      if not all(math.isfinite(value) for value in values):
        kept = f'the last checkpoint is of step {self._saved_step}' if self._saved_step else 'no checkpoint was written yet'
        raise ValueError(f'loss or gradient of step {step} is not finite, at learning rate {learning_rate:.3g}; {kept}: '
                         'lower the learning rate or lengthen the warm-up')

  def save_checkpoint(self, basename):
    self.check_finite()
    with self._trainer_per_task[0].in_host_memory():
      if self.is_chief:
        super().save_checkpoint(basename)
    self._saved_step = self.step

  def run_evals(self, summary_writers=None):
    """Writes the metrics that `evaluate` returns for the weights of now."""
    metrics = self._evaluate(self._model.weights, self._model.state)
    self.log_summary(metrics, summary_writers[0] if summary_writers else None, 'metrics/', 'eval')

  @contextlib.contextmanager
  def _open_summary_writers(self):
    if not self.is_chief:
      yield [None], [None]
      return
    with super()._open_summary_writers() as writers:
      yield writers

  def _log_training_progress(self, task, total_loss, n_steps, elapsed_time, optimizer_metrics, summary_writer):
    """Writes what Trax's loop writes, and bits; prints nothing (see progress.py)."""
    if self.step == 1:
      self._save_gin(summary_writer)
    loss = float(total_loss) / max(1, n_steps)
    self.log_summary({task.loss_name: loss, 'BitsPerToken': loss / math.log(2)}, summary_writer, 'metrics/', 'train')
    rates = {'learning_rate': task.learning_rate(self.step), 'steps per second': n_steps / elapsed_time}
    means = {name: float(value) / max(1, n_steps) for name, value in optimizer_metrics.items()}
    self.log_summary({**rates, **means}, summary_writer, 'training/', 'train')

  def _log_step(self, msg, stdout=True):
    super()._log_step(msg, stdout=False)


def _dropout_rng(seed, step):
  """Returns a step's PRNG key, uint32 (2,); made by NumPy, since the device is busy with the step before."""
  return np.random.Philox(key=[seed, step]).random_raw(1).view(np.uint32)


def _as_one_device(n_devices=None, random_seed=None):
  del n_devices
  return hosts.is_first(), jax.process_count(), 1, training._init_random_number_generators(random_seed)
