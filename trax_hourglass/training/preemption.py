"""A request to stop, by SIGTERM, SIGUSR1 or Ctrl-C: the step under way is finished and saved, then the process ends.

On several hosts, all stop after the same step: JAX's coordination service hears of SIGTERM on any of them.
"""

import os
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils

from trax_hourglass.runtime import distributed

SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1  # The last is what SLURM's templates send.


class Stopping:
  """While it is entered, the first signal is a request; a second Ctrl-C ends the process at once, whatever its threads
  do.

  Attributes:
    signal: the signal that asked, or None.
  """

  def __init__(self):
    self.signal = None
    self._before = {}
    self._several = jax.process_count() > 1

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():  # Elsewhere Python allows no handlers.
      # On several hosts SIGTERM is JAX's own to handle, and Ctrl-C becomes one.
      for number in SIGNALS[1:] if self._several else SIGNALS:
        self._before[number] = signal.signal(number, self._ask)
    return self

  def __exit__(self, *_):
    distributed.end_by_sigterm()
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _ask(self, number, _):
    if self.signal == number == signal.SIGINT:
      os.write(sys.__stderr__.fileno(), b'\nleft at once\n')  # On a line of its own: the bar's has no end.
      # An exception would wait for the thread that writes, and what is half written is no checkpoint in any case.
      os._exit(128 + number)
    first, self.signal = self.signal is None, number
    if first:
      again = '; Ctrl-C again leaves at once' if number == signal.SIGINT else ''
      # A signal may interrupt a print: only writing to the descriptor is safe in a handler.
      os.write(sys.__stderr__.fileno(), f'\nstopping after this step, which will be saved{again}\n'.encode())
    if self._several:
      os.kill(os.getpid(), signal.SIGTERM)

  def heard(self):
    """Returns the signal that asked by now; None on several hosts, which only `asked` keeps together."""
    return None if self._several else self.signal

  def asked(self, step):
    """Returns whether to stop after a step; all hosts must ask for each step."""
    if self._several:
      if multihost_utils.reached_preemption_sync_point(step):
        self.signal = self.signal or signal.SIGTERM
        return True
      return False
    return self.signal is not None
