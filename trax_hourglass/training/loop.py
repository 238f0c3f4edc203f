"""Trax's training loop around our step: tasks, evaluations, history, checkpoints and TensorBoard stay Trax's."""

import math
from unittest import mock

import jax
from trax import layers as tl
from trax import shapes
from trax.fastmath import random
from trax.supervised import training

from trax_hourglass.training import step as step_lib


def BitsPerToken():
  """Metric: (logits (B, L, V), targets (B, L), weights (B, L)) -> mean bits; per byte, where tokens are bytes."""
  return tl.Serial(tl.WeightedCategoryCrossEntropy(), tl.Fn('NatsToBits', lambda nats: nats / math.log(2)),
                   name='BitsPerToken')


class Loop(training.Loop):
  """`trax.supervised.training.Loop` whose step is one compiled function and whose randomness is one of (seed, step)."""

  def __init__(self, model, task, eval_model, eval_task, random_seed, trainer_options=None, **options):
    """Creates the loop, initialises the models and loads the output directory's checkpoint if there is one.

    Args:
      model: the model in mode 'train'.
      task: a TrainTask.
      eval_model: the model in mode 'eval'.
      eval_task: an EvalTask, or None.
      random_seed: seed of weights and dropout.
      trainer_options: arguments of `step.Trainer` by name: dtype, accumulate, shard_weights.
      **options: further arguments of Trax's loop, by name.
    """
    self.loss = None
    self._unchecked = []  # (step, learning rate, loss, gradients' length) since `check_finite`, on the device.
    self._trainer_options = trainer_options or {}
    self._dropout_rng = random.get_prng(random_seed)
    model.init(shapes.signature(task.sample_batch[0]), rng=random.get_prng(random_seed))
    eval_model.weights, eval_model.state = model.weights, model.state
    # Our step divides a batch among devices by itself; the loop sees one.
    with mock.patch.object(training, 'init_host_and_devices', _as_one_device):
      super().__init__(model, task, eval_model=eval_model, eval_tasks=eval_task, random_seed=random_seed, **options)
    self._saved_step = self.step or None  # A resumed run's.

  def _init_trainer(self, task):
    model = training._model_with_ends(self._model, [task.loss_layer], shapes.signature(task.sample_batch))
    task.optimizer.tree_init(model.weights)
    return step_lib.Trainer(model, task.optimizer, **self._trainer_options)

  def _run_one_step(self, task_index, task_changed):
    step, task = self.step, self._tasks[task_index]
    for callback in self._callbacks:
      if callback.call_at(step):
        callback.on_step_begin(step)
    learning_rate = task.learning_rate(step)
    self.loss, stats = self._trainer_per_task[task_index].one_step(
        task.next_batch(), random.fold_in(self._dropout_rng, step), step=step, learning_rate=learning_rate)
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
    super().save_checkpoint(basename)
    self._saved_step = self.step

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


def _as_one_device(n_devices=None, random_seed=None):
  del n_devices
  return jax.process_index() == 0, jax.process_count(), 1, training._init_random_number_generators(random_seed)
