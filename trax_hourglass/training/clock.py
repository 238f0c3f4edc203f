"""The seconds that a run spends training, without compilation, evaluations and checkpoints, over all its restarts."""

import bisect
import json
import pathlib
import time

import jax
from trax.supervised import callbacks

from trax_hourglass import whole_file


class Clock(callbacks.TrainingStepCallback):
  """Adds up the time of steps, and keeps the sums in the run directory.

  It stops before evaluations and checkpoints, and then waits for the device, since steps go on there after they have been
  handed over. The first step of each start, which compiles, is left out.
  """

  FILE = 'seconds.json'

  def __init__(self, loop, path, stops_after):
    """Creates the callback; goes on from the sum at the loop's step if there is one.

    Args:
      loop: the training loop; its `loss` is the last step's.
      path: of the file that keeps the sums.
      stops_after: function step -> whether something else follows that step.
    """
    super().__init__(loop)
    self._path, self._stops_after = pathlib.Path(path), stops_after
    self._sums = [(step, seconds) for step, seconds in read(path) if step <= loop.step]
    self._started, self._is_first = None, True

  def call_at(self, step):
    return True

  def on_step_begin(self, step):
    if self._started is None:
      self._started = time.monotonic()

  def on_step_end(self, step):
    stops = self._stops_after(step)
    if not (stops or self._is_first):
      return
    jax.block_until_ready(self._loop.loss)
    now = time.monotonic()
    seconds = 0.0 if self._is_first else now - self._started
    self._started, self._is_first = None if stops else now, False
    if stops:
      self._sums.append((step, self._sums[-1][1] + seconds if self._sums else seconds))
      whole_file.write(self._path, json.dumps(self._sums))


def read(path):
  """Returns [(step, seconds of training until then)] of a file that a `Clock` wrote; empty without one."""
  path = pathlib.Path(path)
  return [tuple(pair) for pair in json.loads(path.read_text())] if path.exists() else []


def at(sums, step):
  """Returns the seconds until a step, in a straight line between those that are known.

  Args:
    sums: what `read` returns, not empty.
    step: the step.
  """
  index = bisect.bisect_left([known for known, _ in sums], step)
  if index == len(sums):
    return sums[-1][1]
  (before, start), (after, end) = sums[index - 1] if index else (0, 0.0), sums[index]
  return start + (end - start) * (step - before) / (after - before)
