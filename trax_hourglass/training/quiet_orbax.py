"""Orbax, without the tracebacks that its writers print when the disk is full: the error itself reaches who saves."""

import asyncio.base_events
import functools
import logging
import sys
import traceback
import warnings

_LATE = 'call_soon_threadsafe'  # A writer tells an event loop of its failure when that has ended with the first one.
_NEVER_READ = 'exception was never retrieved'


@functools.cache
def orbax():
  """Returns Orbax, imported when a checkpoint is written or read: the first loss need not wait for it."""
  import orbax.checkpoint  # pylint: disable=g-import-not-at-top
  before = sys.unraisablehook  # TensorStore's threads show by it what their calls into Python raise.
  sys.unraisablehook = lambda raised: None if _is_late(raised.exc_value, raised.exc_traceback) else before(raised)
  warnings.filterwarnings('ignore', 'coroutine .* was never awaited', RuntimeWarning)
  logging.getLogger('asyncio').addFilter(lambda record: _NEVER_READ not in record.getMessage())
  return orbax.checkpoint


def _is_late(error, trace):
  frames = traceback.extract_tb(trace)
  return isinstance(error, RuntimeError) and bool(frames) and frames[0].name == _LATE and (
      frames[0].filename == asyncio.base_events.__file__)
