"""Tests full or read-only disks and removed run directories: errors are one line, training continues if possible."""

import asyncio
import fcntl
import logging
import sys
import types

import pytest

from tests.helpers import runs
from trax_hourglass.runtime import atomic_files
from trax_hourglass.training import quiet_orbax

LONG = 'n_steps = 6', 'fit.checkpoint_every = 2'


class Late:
  """Fails in its destructor, where Python cannot raise, like TensorStore's threads."""

  def __init__(self, fails):
    self.fails = fails

  def __del__(self):
    self.fails()


def test_only_late_errors_of_checkpoint_writers_are_hidden(monkeypatch):
  shown = []
  monkeypatch.setattr(sys, 'unraisablehook', lambda raised: shown.append(raised.exc_type))
  quiet_orbax.orbax.cache_clear()
  quiet_orbax.orbax()
  loop = asyncio.new_event_loop()
  loop.close()
  try:
    loop.call_soon_threadsafe(print)
  except RuntimeError as late:
    trace = late.__traceback__.tb_next  # A thread of TensorStore has no caller's frame.
    sys.unraisablehook(types.SimpleNamespace(exc_type=RuntimeError, exc_value=late, exc_traceback=trace))
  assert not shown
  Late(lambda: 1 / 0)
  assert shown == [ZeroDivisionError]


def test_unretrieved_future_errors_are_not_logged(caplog):
  quiet_orbax.orbax()
  logging.getLogger('asyncio').error('Future exception was never retrieved')
  logging.getLogger('asyncio').error('something else')
  assert [record.getMessage() for record in caplog.records] == ['something else']


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), OSError(30, 'Read-only file system')])
def test_an_unwritable_run_directory_is_refused(tmp_path, monkeypatch, error):
  def refuse(*_):
    raise error

  monkeypatch.setattr(atomic_files, 'write', refuse)
  with pytest.raises(ValueError, match=rf"run' cannot be written to \(\[Errno {error.errno}\].*free or grant space"):
    runs.run(tmp_path / 'run')


class Deleting:
  """Moves the run directory away after step 3, as a callback of training."""
  folder, then = None, None

  def __init__(self, loop):
    del loop

  def call_at(self, step):
    return step == 3

  def on_step_begin(self, step):
    del step

  def on_step_end(self, step):
    del step
    self.folder.rename(f'{self.folder} before')  # A checkpoint may be in progress there.
    if self.then:
      self.then()


def deleted(tmp_path, then=None):
  kind = type('Deleting', (Deleting,), {'folder': tmp_path / 'run', 'then': staticmethod(then) if then else None})
  runs.gin.clear_config()
  runs.gin_config.parse_gin([runs.TINY], LONG)
  return runs.th.fit(str(tmp_path / 'run'), callbacks=[kind])


def test_a_deleted_run_directory_is_created_again(tmp_path, capsys):
  assert deleted(tmp_path).step == 6
  assert capsys.readouterr().err.count('run was removed, and is created again\n') == 1
  assert (tmp_path / 'run' / 'config.gin').exists() and (tmp_path / 'run' / 'versions.json').exists()
  assert runs.run(tmp_path / 'run', *LONG, 'n_steps = 7').step == 7


def test_a_run_directory_taken_by_another_process_is_left_alone(tmp_path):
  kept = []

  def take():
    (tmp_path / 'run').mkdir()
    kept.append(open(tmp_path / 'run' / 'run.lock', 'w', encoding='utf-8'))
    fcntl.flock(kept[0], fcntl.LOCK_EX)

  with pytest.raises(ValueError, match='trains in'):
    deleted(tmp_path, take)
  assert not (tmp_path / 'run' / 'config.gin').exists()
  kept[0].close()
