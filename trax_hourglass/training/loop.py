"""Runs Trax's training loop, with its tasks, history and callbacks, around our step; runs resume from any step.

A step depends only on (seed, step) and on the contents of a checkpoint.
"""

import collections
import contextlib
import math
import sys
import time
from unittest import mock

import jax
import numpy as np
from trax import shapes
from trax.fastmath import random
from trax.supervised import history
from trax.supervised import training

from trax_hourglass.layers import loss as loss_lib
from trax_hourglass.layers import trax_random
from trax_hourglass.models import trax_checkpoint
from trax_hourglass.models import weight_names
from trax_hourglass.runtime import distributed
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import seeds
from trax_hourglass.runtime import sharding as mesh_lib
from trax_hourglass.runtime.progress import say
from trax_hourglass.training import checkpoints
from trax_hourglass.training import level_rates
from trax_hourglass.training.preemption import Stopping
from trax_hourglass.training import step as step_lib
from trax_hourglass.training import tensorboard

_MOST_SKIPPED = 10  # Steps in a row; that many suggest divergence rather than bad luck.
_SETTLED_TOGETHER = 20  # Interval in steps at which several hosts settle.


class Loop(training.Loop):
  """Adapts `trax.supervised.training.Loop` to a step compiled as one function and to the checkpoints of checkpoints.py.

  The loop runs on all hosts; only the first host writes events and exports.

  Attributes:
    loss: loss of the last step, in nats, still on a device.
    stopped_by: the signal that ended `run`, or None.
    seconds_paused: time spent in evaluations.
  """

  def __init__(self, model, task, eval_model, evaluate, random_seed, record, mesh=None, loss_chunk=None,
               trainer_options=None, export_at=None, begin_with=None, stop_after=None,
               **options):
    """Creates the loop, initialises the models and restores the run's checkpoint, if any.

    Args:
      model: the model in mode 'train'.
      task: a TrainTask, whose batches start at step `record.step`.
      eval_model: the model in mode 'eval'.
      evaluate: function (weights, state, stop) -> bits per token, which calls `stop()` after each batch and passes on
        its exceptions.
      random_seed: seed of weights and dropout.
      record: an entered RunRecord.
      mesh: the devices, see sharding.py; None for all devices.
      loss_chunk: tokens of a sequence whose logits exist at the same time, see loss.py; None for all.
      trainer_options: arguments of `step.Trainer` by name.
      export_at: function step -> whether to also export a kept checkpoint in Trax's format; None for never.
      stop_after: evaluations in a row without improvement that end `run`; None for no limit.
      begin_with: function that replaces the initialised model's weights in a new run; None for no replacement.
      **options: `checkpoint_at`, `eval_at` and `callbacks` of Trax's loop.

    Raises:
      InputError: a `loss_chunk` that the model cannot be trained by, or a checkpoint that does not fit the model.
    """
    loss_lib.check_chunk(model, loss_chunk)
    self.loss, self.stopped_by, self.seconds_paused = None, None, 0.0
    self._record, self._evaluate, self._export_at = record, evaluate, export_at or (lambda step: False)
    self._loss_chunk = loss_chunk
    self._trainer_options = {'mesh': mesh or mesh_lib.over_devices(), **(trainer_options or {})}
    self._seed, self._stop_after = random_seed, stop_after
    self._unread, self._saved = [], None  # (step, learning rate, statistics) since `settle`, on device.
    self._sums, self._n_summed, self._n_skipped = {}, 0, 0  # Of statistics since the last log entry.
    self._logged_at = {'train': {}, 'eval': {}}  # When each step was logged, in seconds since 1970.
    # Our step shards batches, and the record owns the files: so Trax's loop sees one device and no folder, and its log
    # messages about them are suppressed. PRNG keys of the layers are split on the host, which needs no compilation.
    with (_on_the_cpu(), trax_random.on_host(),
          mock.patch.object(training, 'init_host_and_devices', _as_one_device),
          mock.patch.object(training, '_log', lambda *_, **__: None)):
      model.init(shapes.signature(task.sample_batch[0]), rng=random.get_prng(random_seed))
      if begin_with is not None and record.step is None:
        begin_with(model)
      eval_model.weights, eval_model.state = model.weights, model.state
      super().__init__(model, task, eval_model=eval_model, eval_tasks=[], random_seed=random_seed, output_dir=None,
                       **options)
    self._output_dir = str(record.path)
    if record.step is not None:
      self._restore(record.step, record.notes)

  def run(self, n_steps=1):
    """Trains for `n_steps` steps, 0 or more, or until a request to stop; then saves a checkpoint.

    If the run was stopped within the evaluation of its current step, that evaluation is repeated first.

    Raises:
      InputError: a loss, gradient or weight is not finite, or the last checkpoint could not be written.
    """
    last = self.step + n_steps
    self._record.begin()
    self._events = {part: tensorboard.of_history(self._record.path / part if self.is_chief else None, self.history,
                                                 part, self._logged_at[part]) for part in self._logged_at}
    self._clock, self._n_timed = time.monotonic(), 0  # Time and steps since the last log entry.
    try:
      with Stopping() as stopping:
        self._stopping = stopping
        try:
          if self.step and self._eval_at(self.step) and self._bits() is None:  # Stopped within this evaluation.
            self.run_evals()
            self._saved = None  # The checkpoint lacks these bits.
            self.save_checkpoint()
          self._export_kept()
          while self.step < last and self.stopped_by is None and not self.is_past_best():
            self._step += 1
            self._run_one_step(0, False)
            self._after_step(last)
        except _Stopped:
          pass
        self.stopped_by = self.stopped_by or stopping.heard()
        self.save_checkpoint()
        self._record.store.wait()
        self.stopped_by = self.stopped_by or stopping.heard()
    finally:
      for events in self._events.values():
        events.close()
    self._eval_model.weights = self._model.weights
    if self._saved != self.step:
      raise InputError(f'the checkpoint of step {self.step} could not be written to {self._record.store.folder}: make '
                       'room there and start the same command again, which resumes from step '
                       f'{max(self._record.store.steps(), default=0)}')

  def _run_one_step(self, task_index, task_changed):
    step, task = self.step, self._tasks[task_index]
    for callback in self._callbacks:
      if callback.call_at(step):
        callback.on_step_begin(step)
    learning_rate = task.learning_rate(step)
    self.loss, stats = self._trainer.one_step(
        task.next_batch(), _dropout_rng(self._seed, step), step=step, learning_rate=learning_rate)
    self._unread.append((step, learning_rate, stats))
    self._n_timed += 1
    for callback in self._callbacks:
      if callback.call_at(step):
        callback.on_step_end(step)
    return self.loss, stats

  def _after_step(self, last):
    """Logs, evaluates and saves at the steps scheduled for this."""
    self._record.store.poll()
    if self._stopping.asked(self.step):
      self.stopped_by = self._stopping.signal
    if jax.process_count() > 1 and self.step % _SETTLED_TOGETHER == 0:
      self.settle()
    if self._eval_at(self.step):
      self._log_training()
      if self.stopped_by is None:
        self.run_evals()
    if self._checkpoint_at(self.step) and self.step < last:
      self.save_checkpoint()

  def settle(self):
    """Reads the statistics of the steps since the last call; waits for the device.

    All hosts must call it after the same step, or one host could end while others wait for it in a later step.

    Raises:
      InputError: a loss, gradient or weight is not finite, and steps are not to be skipped.
    """
    unread, self._unread = self._unread, []
    for (step, learning_rate, _), stats in zip(unread, jax.device_get([stats for *_, stats in unread])):
      stats = {name: float(value) for name, value in stats.items()}
      was_skipped = stats.pop('skipped', 0.0)
      if was_skipped:
        self._n_skipped += 1
        self._say(f'step {step} skipped: its loss or gradient is not finite')
      if self._n_skipped >= _MOST_SKIPPED or not was_skipped and not all(map(math.isfinite, stats.values())):
        self._record.store.wait()
        kept = max(self._record.store.steps(), default=None)
        kept = 'no checkpoint was written yet' if kept is None else f'the last good checkpoint is of step {kept}'
        raise InputError(f'loss, gradient or weights of step {step} are not finite, at learning rate '
                         f'{learning_rate:.3g}; {kept}: lower the learning rate or lengthen the warm-up')
      if not was_skipped:
        self._n_skipped = 0
        self._n_summed += 1
        for name, value in stats.items():
          self._sums[name] = self._sums.get(name, 0.0) + value

  def save_checkpoint(self, basename=None):
    """Starts to write a checkpoint of this step, while training continues; the name is ignored."""
    del basename
    if self._saved == self.step or not self.step:
      return
    self.settle()
    notes = {**self._record.identity(), 'seed': self._seed, 'names': weight_names.names(self._model),
             'history': self.history.to_dict(), 'bits': self._bits(), 'since_logged': [self._n_summed, self._sums],
             'n_skipped': self._n_skipped, 'logged_at': self._logged_at}
    self._saved = self.step
    self._record.mend()
    self._record.store.save(self.step, self._trainer.arrays(), notes)

  def save_failed(self, step, error):
    """Reports that a checkpoint could not be written; training continues."""
    if self._saved == step:
      self._saved = None
    self._say(f'the checkpoint of step {step} could not be written, training continues and the next checkpoint will be '
              f'tried: {" ".join(str(error).split())[:300]}')

  def saved(self, step):
    """Exports a written checkpoint if `export_at` selects its step; retries failed exports as well."""
    if self._export_at(step) and self.stopped_by is None:
      self._export_kept()

  def _export_kept(self):
    """Writes the missing exports of checkpoints for Trax's loop; see trax_checkpoint.py.

    Reports failures, which are retried after the next exported checkpoint and when the run is resumed.
    """
    store = self._record.store
    for step in filter(self._export_at, store.steps()) if self.is_chief else ():
      path = self._record.path / f'model_{step}.pkl.gz'
      if path.exists():
        continue
      try:
        store.check(step)
        values = store.notes(step)['history']
        with self._trainer.holding(store.read(step)):
          trax_checkpoint.write_loop(path, self._model, self._trainer.slots, step, _history(values).to_dict(),
                                     self._batch_signature[:self._model.n_in])
      except Exception as error:  # A full disk surfaces as errors of several libraries.  pylint: disable=broad-except
        self._say(f'{path.name} could not be written, training goes on and it is tried again later: '
                  f'{" ".join(str(error).split())[:300]}')

  def _say(self, text):
    if self.is_chief:
      say(text)

  def run_evals(self, summary_writers=None):
    """Logs the bits that `evaluate` returns for the current weights."""
    del summary_writers
    # The current weights; this also frees the initial ones.
    self._eval_model.weights, self._eval_model.state = self._model.weights, self._model.state
    started = time.monotonic()
    bits = self._evaluate(self._model.weights, self._model.state, self._check_stop)
    self._log('eval', {checkpoints.SAMPLE_BITS: bits})
    paused = time.monotonic() - started
    self._clock, self.seconds_paused = self._clock + paused, self.seconds_paused + paused

  def is_past_best(self):
    """Returns whether none of the last `stop_after` evaluations improved on the best one before."""
    bits = [value for _, value in self.history.get('eval', checkpoints.SAMPLE_BITS)] if self._stop_after else []
    return bool(bits) and len(bits) - 1 - bits.index(min(bits)) >= self._stop_after

  def _bits(self):
    """Returns the bits of this step's evaluation, or None without one."""
    return dict(self.history.get('eval', checkpoints.SAMPLE_BITS)).get(self.step)

  def _check_stop(self):
    if self._stopping.heard() is not None:  # Never on several hosts, which would stop at different batches.
      raise _Stopped

  def _log_training(self):
    """Logs the metrics of Trax's loop, and bits; prints nothing (see progress.py)."""
    self.settle()
    means = {name: total / max(1, self._n_summed) for name, total in self._sums.items()}
    loss = means.pop('loss', math.nan)
    seconds = max(time.monotonic() - self._clock, 1e-9)
    self._log('train', {
        f'metrics/{self._tasks[0].loss_name}': loss,
        checkpoints.BITS: loss / math.log(2),
        'training/learning_rate': self._tasks[0].learning_rate(self.step),
        'training/steps per second': self._n_timed / seconds,
        **{f'training/{name}': value for name, value in means.items()}})
    self._sums, self._n_summed = {}, 0
    self._clock, self._n_timed = time.monotonic(), 0

  def _log(self, part, scalars):
    for name, value in scalars.items():
      self._history.append(part, name, self.step, float(value))
    self._logged_at[part][str(self.step)] = time.time()  # JSON keys are strings.
    self._events[part].write(self.step, self._logged_at[part][str(self.step)], scalars)

  def _init_trainer(self, task):
    if self._loss_chunk is None:
      model = training._model_with_ends(self._model, [task.loss_layer], shapes.signature(task.sample_batch))
    else:
      model = loss_lib.LossInChunks(self._model, self._loss_chunk)
    level_rates.initialise(task.optimizer, model.weights, self._model)
    return step_lib.Trainer(model, task.optimizer, **self._trainer_options)

  @property
  def _trainer(self):
    return self._trainer_per_task[0]

  def _restore(self, step, notes):
    like = checkpoints.abstract(self._trainer.arrays(), self._trainer.sharding)
    self._trainer.take(self._record.store.restore(step, like))
    self._eval_model.weights, self._eval_model.state = self._model.weights, self._model.state  # Frees its old ones.
    self._step = self._saved = step
    self._n_summed, self._sums = notes['since_logged']
    self._n_skipped = notes['n_skipped']
    self._history = _history(notes['history'])
    self._logged_at |= notes.get('logged_at', {})  # Runs of version 0.1 have none.
    if notes['seed'] != self._seed:
      raise InputError(f'seed is {self._seed} and the run began with {notes["seed"]}: give that, or another output_dir')


class _Stopped(Exception):
  """Signals that an evaluation was stopped; it is repeated when the run is resumed."""


def _on_the_cpu():
  """Returns a context that creates arrays on the CPU, since with FSDP all weights may not fit on one device."""
  try:
    return jax.default_device(jax.local_devices(backend='cpu')[0])
  except RuntimeError:  # JAX_PLATFORMS may exclude the CPU.
    return contextlib.nullcontext()


def _dropout_rng(seed, step):
  """Returns a step's PRNG key, uint32 (2,); from NumPy, since the device is busy with the previous step."""
  return seeds.philox(seed, step).random_raw(1).view(np.uint32)


def _history(as_json):
  """Returns Trax's History from its dictionary after a round trip through JSON."""
  values = {
      part: collections.defaultdict(list, {name: [tuple(pair) for pair in pairs] for name, pairs in of_part.items()})
      for part, of_part in as_json['_values'].items()
  }
  before = values.get('eval', {}).pop(checkpoints.BITS, None)  # Written by versions up to 0.2.
  if before is not None:
    values['eval'][checkpoints.SAMPLE_BITS] = before
  return history.History.from_dict({'_values': values})


def _as_one_device(n_devices=None, random_seed=None):
  del n_devices
  # Trax also seeds TensorFlow, which this avoids importing.
  with mock.patch.object(training, 'tf', sys.modules.get('tensorflow') or mock.Mock()):
    rng = training._init_random_number_generators(random_seed)
  return distributed.is_first(), jax.process_count(), 1, rng
