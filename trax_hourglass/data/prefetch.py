"""Prefetches batches in a thread, so that the device need not wait for data."""

import collections
from concurrent import futures
import time

from trax_hourglass.runtime import checks


class Prefetched:
  """Iterates over another iterator's batches, some of which are always ready.

  The thread ends when this object is closed or garbage-collected. Like the wrapped iterator, this object has no state
  but `step`.

  Attributes:
    seconds_waited: seconds that `next` has waited for batches since this object was created.
  """

  def __init__(self, batches, depth=2):
    """Wraps an iterator; the thread starts with the first `next`.

    Args:
      batches: endless iterator with a `step` that can be set, see batches.Windows; now owned by this object.
      depth: largest number of batches that are ready.

    Raises:
      InputError: a depth below 1.
    """
    checks.check_sizes(depth=depth)
    self._batches, self._depth = batches, depth
    self._step = batches.step
    self._worker, self._made = None, collections.deque()
    self.seconds_waited = 0.0

  @property
  def step(self):
    """Returns the step of the next batch; setting `step` resumes from another."""
    return self._step

  @step.setter
  def step(self, step):
    if step != self._step:
      self.close()
      self._step = step

  def __iter__(self):
    return self

  def __next__(self):
    """Returns the next batch, or raises the error of computing it."""
    started = time.perf_counter()
    if self._worker is None:
      self._batches.step = self._step
      self._worker = futures.ThreadPoolExecutor(1, 'prefetch')
    while len(self._made) <= self._depth:  # One more than `depth`, which is taken now.
      self._made.append(self._worker.submit(next, self._batches))
    try:
      batch = self._made.popleft().result()
    except BaseException:
      self.close()
      raise
    self.seconds_waited += time.perf_counter() - started
    self._step += 1
    return batch

  def close(self):
    """Ends the thread; `next` starts another."""
    if self._worker is not None:
      self._worker.shutdown(cancel_futures=True)
      self._worker = None
      self._made.clear()
