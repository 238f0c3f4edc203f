"""Measures the training time of a run over all restarts, without compilation, evaluations and checkpoints."""

import json
import pathlib
import time

import jax
import numpy as np
from trax.supervised import callbacks

from trax_hourglass.runtime import atomic_files


class Clock(callbacks.TrainingStepCallback):
  """Sums the time of steps, and saves the sums in the run directory.

  The clock stops before evaluations and checkpoints, after waiting for the device, since steps run asynchronously. Not
  timed are the first step of each start, which compiles, and the steps between the last stop and a signal that ended
  the run.
  """

  FILE = 'seconds.json'

  def __init__(self, loop, path, stops_after):
    """Creates the callback, which continues from the sums in the file for steps before its first step.

    Args:
      loop: the training loop; its `loss` is the last step's.
      path: path of the file of sums.
      stops_after: function step -> whether an evaluation or checkpoint follows the step.
    """
    super().__init__(loop)
    self._path, self._stops_after = pathlib.Path(path), stops_after
    self._sums = None  # Read later, since the loop creates its callbacks before it restores a checkpoint.
    self._started, self._n_timed = None, 0

  def call_at(self, step):
    return True

  def on_step_begin(self, step):
    if self._sums is None:
      self._sums = [sums for sums in read(self._path) if sums[0] < step]
    elif self._started is None:
      self._started = time.monotonic()

  def on_step_end(self, step):
    is_first, stops = self._started is None, self._stops_after(step)
    self._n_timed += not is_first
    if not (stops or is_first):
      return
    jax.block_until_ready(self._loop.loss)
    now = time.monotonic()
    if stops:
      _, seconds, n_timed = self._sums[-1] if self._sums else (0, 0.0, 0)
      seconds += 0.0 if is_first else now - self._started
      self._sums.append((step, seconds, n_timed + self._n_timed))
      self._n_timed = 0
      atomic_files.write(self._path, json.dumps(self._sums))
    self._started = None if stops else now


def read(path):
  """Returns [(step, timed seconds so far, number of timed steps)] from a `Clock`'s file, or [] if missing."""
  path = pathlib.Path(path)
  return [tuple(sums) for sums in json.loads(path.read_text())] if path.exists() else []


def per_step(sums):
  """Returns (mean, median) of the seconds per step; zeros if no step was timed.

  For the median, each step counts as the mean of all steps between the same two stops. The median ignores occasional
  slowdowns of the machine, so that runs with different disturbances can be compared. The mean is the time actually
  spent.

  Args:
    sums: the result of `read`.
  """
  _, seconds, n_timed = np.diff([(0, 0.0, 0), *sums], axis=0).T
  n_timed = n_timed.astype(int)
  each = np.repeat(seconds / np.maximum(n_timed, 1), n_timed)
  return (float(np.mean(each)), float(np.median(each))) if len(each) else (0.0, 0.0)
