"""Batches made ahead in a thread, so that the device need not wait for them."""

import collections
import threading
import time
import weakref

from trax_hourglass.runtime.errors import InputError


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
    if not isinstance(depth, int) or depth < 1:
      raise InputError(f'depth is {depth!r}: give the number of batches to make ahead')
    self._batches, self._depth = batches, depth
    self._step = batches.step
    self._line = None
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
    if self._line is None:
      self._batches.step = self._step
      self._line = _Line(self._batches, self._depth)
      self._end = weakref.finalize(self, self._line.stop)
    try:
      batch = self._line.take()
    except BaseException:
      self.close()
      raise
    self.seconds_waited += time.perf_counter() - started
    self._step += 1
    return batch

  def close(self):
    """Ends the thread; `next` begins another."""
    if self._line is not None:
      self._end.detach()
      self._line.stop()
      self._line.thread.join()
      self._line = None


class _Line:
  """The thread and the batches that are ready. It does not know the object it works for, so that one can be
  forgotten.
  """

  def __init__(self, batches, depth):
    self._ready, self._depth = collections.deque(), depth
    self._changed = threading.Condition()
    self._stopped, self._error = False, None
    self.thread = threading.Thread(target=self._run, args=(batches,), name='prefetch', daemon=True)
    self.thread.start()

  def _run(self, batches):
    try:
      while self._has_room():
        batch = next(batches)
        with self._changed:
          self._ready.append(batch)
          self._changed.notify_all()
    except BaseException as error:  # It is the consumer's to deal with.  pylint: disable=broad-except
      with self._changed:
        self._error = error
        self._changed.notify_all()

  def _has_room(self):
    """Waits until there is room for a batch; returns False when it is time to end."""
    with self._changed:
      self._changed.wait_for(lambda: self._stopped or len(self._ready) < self._depth)
      return not self._stopped

  def take(self):
    """Returns the next batch, or raises what came instead of it."""
    with self._changed:
      self._changed.wait_for(lambda: self._ready or self._error)
      if not self._ready:
        raise self._error
      batch = self._ready.popleft()
      self._changed.notify_all()
      return batch

  def stop(self):
    """Tells the thread to end."""
    with self._changed:
      self._stopped = True
      self._changed.notify_all()
