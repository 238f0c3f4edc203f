"""Imports Orbax without the tracebacks that its writers print on a full disk; the error itself reaches the caller."""

import asyncio.base_events
import functools
import logging
import sys
import traceback
import warnings

_LATE = 'call_soon_threadsafe'  # A writer reports its failure to an event loop that an earlier failure ended.
_NEVER_READ = 'exception was never retrieved'


@functools.cache
def orbax():
  """Returns Orbax, imported at the first checkpoint, so that the first step need not wait for the import."""
  import orbax.checkpoint  # pylint: disable=g-import-not-at-top
  before = sys.unraisablehook  # TensorStore's threads report errors of Python calls by it.
  sys.unraisablehook = lambda raised: None if _is_late(raised.exc_value, raised.exc_traceback) else before(raised)
  warnings.filterwarnings('ignore', 'coroutine .* was never awaited', RuntimeWarning)
  logging.getLogger('asyncio').addFilter(lambda record: _NEVER_READ not in record.getMessage())
  return orbax.checkpoint


def _is_late(error, trace):
  frames = traceback.extract_tb(trace)
  return isinstance(error, RuntimeError) and bool(frames) and frames[0].name == _LATE and (
      frames[0].filename == asyncio.base_events.__file__)
