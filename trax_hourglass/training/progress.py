"""A callback of Trax's loop that shows loss in bits, tokens per second and the time left."""

import math
import time

import jax
from trax.supervised import callbacks

from trax_hourglass.runtime.progress import Progress

_LOSS_SECONDS = 1.0  # Reading the loss waits for the device, so it is not done more often than this.


class TrainingProgress(callbacks.TrainingStepCallback):
  """Shows the first step, the last one, and some between them."""

  def __init__(self, loop, n_steps, tokens_per_step, unit):
    """Creates the callback.

    Args:
      loop: the training loop; its `loss` is the last step's, in nats, and `seconds_paused` those of evaluations.
      n_steps: step at which training ends.
      tokens_per_step: tokens of a batch.
      unit: what a token is, such as 'byte'.
    """
    super().__init__(loop)
    self._n_steps, self._unit = n_steps, unit
    self._progress = Progress('step', 'token', tokens_per_step, loop.is_chief)
    self._shown_at = None

  def call_at(self, step):
    return True

  def on_step_begin(self, step):
    if self._shown_at is None:  # Not before: the loop makes its callbacks and takes over a checkpoint then.
      self._progress.begin(step - 1, self._n_steps)
      self._shown_at = -math.inf

  def on_step_end(self, step):
    if time.monotonic() - self._shown_at < _LOSS_SECONDS and step != self._n_steps:
      return
    if jax.process_count() == 1:  # Several hosts have clocks of their own, and settle after the same steps.
      self._loop.settle()
    bits = float(self._loop.loss) / math.log(2)
    self._progress.show(step, self._n_steps, f'{bits:.3f} bits/{self._unit}', self._loop.seconds_paused)
    self._shown_at = time.monotonic()
    if step == self._n_steps:
      self._progress.close()
