"""Shows loss in bits, tokens per second and the time left, by a callback of Trax's loop."""

import math
import time

import jax
from trax.supervised import callbacks

from trax_hourglass.runtime.progress import Progress

_LOSS_SECONDS = 1.0  # Minimum time between reads of the loss, which wait for the device.


class TrainingProgress(callbacks.TrainingStepCallback):
  """Shows the first step, the last step, and some steps in between."""

  def __init__(self, loop, n_steps, tokens_per_step, unit):
    """Creates the callback.

    Args:
      loop: the training loop; its `loss` is the last step's, in nats, its `seconds_paused` those of evaluations.
      n_steps: last step of the training.
      tokens_per_step: tokens per batch.
      unit: unit of a token, such as 'byte'.
    """
    super().__init__(loop)
    self._n_steps, self._unit = n_steps, unit
    self._progress = Progress('step', 'token', tokens_per_step, loop.is_chief)
    self._shown_at = None

  def call_at(self, step):
    return True

  def on_step_begin(self, step):
    if self._shown_at is None:  # Not earlier: the loop restores a checkpoint after creating its callbacks.
      self._progress.begin(step - 1, self._n_steps)
      self._shown_at = -math.inf

  def on_step_end(self, step):
    if time.monotonic() - self._shown_at < _LOSS_SECONDS and step != self._n_steps:
      return
    if jax.process_count() == 1:  # Several hosts settle after fixed steps, since their clocks differ.
      self._loop.settle()
    bits = float(self._loop.loss) / math.log(2)
    self._progress.show(step, self._n_steps, f'{bits:.3f} bits/{self._unit}', self._loop.seconds_paused)
    self._shown_at = time.monotonic()
    if step == self._n_steps:
      self._progress.close()
