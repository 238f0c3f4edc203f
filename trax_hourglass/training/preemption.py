"""Handles SIGTERM, SIGUSR1 and Ctrl-C as requests to stop: finishes and saves the current step, then ends the process.

All hosts stop after the same step: JAX's coordination service receives the SIGTERM of any host.
"""

import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

from trax_hourglass.runtime import distributed

SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1  # SLURM templates send SIGUSR1.


class Stopping:
  """Handles the first signal as a request to stop; a second Ctrl-C ends the process at once, whatever its threads do.

  Attributes:
    signal: the signal received, or None.
  """

  def __init__(self):
    self.signal = None
    self._before = {}
    self._several = jax.process_count() > 1

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():  # Elsewhere Python allows no handlers.
      # On several hosts JAX handles SIGTERM, and other signals are forwarded as SIGTERM.
      for number in SIGNALS[1:] if self._several else SIGNALS:
        self._before[number] = signal.signal(number, self._ask)
    return self

  def __exit__(self, *_):
    distributed.end_by_sigterm()
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _ask(self, number, _):
    if self.signal == number == signal.SIGINT:
      # On a new line: that of the progress bar has no newline.
      _write('\naborted; nothing saved\n')
      # An exception would wait for the writing thread, and a partly written checkpoint is never used anyway.
      os._exit(128 + number)
    first, self.signal = self.signal is None, number
    if first:
      again = '; Ctrl-C again leaves at once' if number == signal.SIGINT else ''
      _write(f'\nstopping after this step, which will be saved{again}\n')
    if self._several:
      os.kill(os.getpid(), signal.SIGTERM)

  def heard(self):
    """Returns the signal received so far; None on several hosts, which only `asked` synchronizes."""
    return None if self._several else self.signal

  def asked(self, step):
    """Returns whether to stop after a step; all hosts must call it for each step."""
    if self._several:
      if multihost_utils.reached_preemption_sync_point(step):
        self.signal = self.signal or signal.SIGTERM
        return True
      return False
    return self.signal is not None


def _write(text):
  """Writes to stderr, if there still is one: Ctrl-C also ends `tee` behind a pipe."""
  with contextlib.suppress(OSError):
    os.write(2, text.encode())  # A signal may interrupt a print: only writing to the descriptor is safe in a handler.
