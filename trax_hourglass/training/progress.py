"""What a training run shows while it goes on: a bar on a terminal, plain lines elsewhere, both on stderr."""

import math
import sys
import time

import jax
import tqdm
from trax.supervised import callbacks

_LOSS_SECONDS = 1.0  # Reading the loss waits for the device, so it is not done more often than this.
_LINE_SECONDS = 15.0


class Progress(callbacks.TrainingStepCallback):
  """Shows loss in bits, tokens per second and time left."""

  def __init__(self, loop, n_steps, tokens_per_step, unit):
    """Creates the callback.

    Args:
      loop: the training loop; its `loss` is the last step's, in nats.
      n_steps: step at which training ends.
      tokens_per_step: tokens of a batch.
      unit: what a token is, such as 'byte'.
    """
    super().__init__(loop)
    self._tokens_per_step, self._unit = tokens_per_step, unit
    self._on_terminal = loop.is_chief and sys.stderr.isatty()
    self._prints_lines = loop.is_chief and not self._on_terminal
    self._bar = tqdm.tqdm(total=n_steps, unit='step', dynamic_ncols=True, file=sys.stderr,
                          disable=not self._on_terminal)
    self._n_steps = n_steps
    self._shown_at, self._shown_step = time.monotonic(), None
    self._printed_at = -math.inf

  def call_at(self, step):
    return True

  def on_step_begin(self, step):
    if self._shown_step is None:  # Not before: the loop makes its callbacks and takes over a checkpoint then.
      self._shown_step = self._bar.initial = self._bar.n = step - 1

  def on_step_end(self, step):
    now = time.monotonic()
    self._bar.update()
    first, last = self._printed_at == -math.inf, step == self._n_steps
    if now - self._shown_at < _LOSS_SECONDS and not (first or last):
      return
    if jax.process_count() == 1:  # Several hosts have clocks of their own, and settle after the same steps.
      self._loop.settle()
    bits = float(self._loop.loss) / math.log(2)
    seconds = max(time.monotonic() - self._shown_at, 1e-9)
    rate = (step - self._shown_step) * self._tokens_per_step / seconds
    speed = f'compiled in {seconds:.0f} s' if first else f'{rate:,.0f} tokens/s'
    self._bar.set_postfix_str(f'{bits:.3f} bits/{self._unit}, {speed}')
    if first or last or now - self._printed_at > _LINE_SECONDS:
      left = '' if first else f', {(self._n_steps - step) * self._tokens_per_step / rate:.0f} s left'
      if self._prints_lines:
        print(f'step {step}/{self._n_steps}: {bits:.3f} bits/{self._unit}, {speed}{left}', file=sys.stderr, flush=True)
      self._printed_at = now
    # The clock starts again after the wait for the loss, which is part of the step.
    self._shown_at, self._shown_step = time.monotonic(), step
    if last:
      self._bar.close()
