"""Batches made ahead in a thread, so that the device need not wait for them."""

import collections
from concurrent import futures
import time

from trax_hourglass.runtime import checks


class Prefetched:
  """An iterator over another one's batches, some of which are always ready.

  The thread ends when this object is closed or forgotten. Like the iterator it wraps it has no state but `step`.

  Attributes:
    seconds_waited: that `next` had to wait for batches since this object was made.
  """

  def __init__(self, batches, depth=2):
    """Takes an iterator; the thread begins with the first `next`.

    Args:
      batches: endless iterator with a `step` that can be set, see batches.Windows. It now belongs to this object.
      depth: batches that are ready at most.

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
    """The step that the next batch is for; set it to go on from another."""
    return self._step

  @step.setter
  def step(self, step):
    if step != self._step:
      self.close()
      self._step = step

  def __iter__(self):
    return self

  def __next__(self):
    """Returns the next batch; raises what making it raised."""
    started = time.perf_counter()
    if self._worker is None:
      self._batches.step = self._step
      self._worker = futures.ThreadPoolExecutor(1, 'prefetch')
    while len(self._made) <= self._depth:  # One more than are to be ready: it is taken now.
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
    """Ends the thread; `next` begins another."""
    if self._worker is not None:
      self._worker.shutdown(cancel_futures=True)
      self._worker = None
      self._made.clear()
