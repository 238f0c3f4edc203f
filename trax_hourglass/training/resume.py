"""Locks a run directory for one process, and checks on resuming that config and data are those of the run."""

import contextlib
import os
import pathlib
import shutil

import gin

from trax_hourglass.data import fingerprint
from trax_hourglass.runtime import atomic_files
from trax_hourglass.runtime import distributed
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import folder_lock
from trax_hourglass.runtime.progress import say
from trax_hourglass.training import branches
from trax_hourglass.training import checkpoints
from trax_hourglass.training import retention
from trax_hourglass.training import run_config
from trax_hourglass.training import tensorboard
from trax_hourglass.training import versions

CONFIG, _LOCK = 'config.gin', 'run.lock'


class RunRecord:
  """Manages lock, config, versions and checkpoints of a run directory, as a context manager around training.

  Attributes:
    path: the directory.
    store: the checkpoints.Store of the directory.
    step: step of the checkpoint that the run resumes or branches from, or None.
    notes: notes of that checkpoint: the `identity` of that time and the additions of the loop.
  """

  def __init__(self, output_dir, corpus, vocab_size, kept=retention.Kept(), branch_from=None, **on):
    """Creates the record without opening the directory; all configured objects must exist, for gin's operative config.

    Args:
      output_dir: the run directory.
      corpus: the corpus, whose 'train' and 'valid' splits the run uses.
      vocab_size: vocabulary size of the model.
      kept: the retention policy for checkpoints.
      branch_from: (run directory, step) that a new run starts from, or None; see branches.py.
      **on: `on_failure` and `on_written` of checkpoints.Store.
    """
    self.path = pathlib.Path(output_dir)
    self.store = checkpoints.Store(output_dir, kept, **on)
    self.step, self.notes = None, {}
    self._config = run_config.without_comments(gin.operative_config_str(max_line_length=run_config.ONE_LINE))
    self._corpus, self._vocab_size, self._branch_from = corpus, vocab_size, branch_from
    self._data, self._is_new, self._lock = None, False, None

  def identity(self):
    """Returns config and data fingerprints, which a run may not change, for a checkpoint's notes."""
    return {'config': self._config, 'data': self._data}

  def __enter__(self):
    """Locks the directory and finds the checkpoint to resume or branch from.

    Raises:
      InputError: the path is a file, the run has another format, another process trains in the directory, or all
        checkpoints are damaged. Also if the directory or `branch_from` holds another run, a token is outside the
        vocabulary, or hosts have different settings or data.
    """
    self._is_new = not self.path.exists()
    try:
      with distributed.together(f'opening {str(self.path)!r}'):
        if distributed.is_first():
          versions.check_format(self.path)
          self._take_lock()
      distributed.check_same('settings', run_config.of_all_hosts())
      self.store.tidy()
      self.step, source = self.store.newest_sound(put_aside=True), None
      with distributed.together(f'going on in {str(self.path)!r}'):
        self._data = {
            name: fingerprint.fingerprint(self._corpus.split(name), self._vocab_size) for name in ('train', 'valid')
        }
        if self.step is not None:
          self._check_same_run(self.store, self.step)
        elif self._branch_from is not None:
          source, self.step = branches.source(self._branch_from)
          self._check_same_run(source, self.step)
      distributed.check_same('data', str(self._data))
      if source is not None:
        with distributed.together(f'copying to {str(self.path)!r}'):
          branches.copy(source, self.step, self.store)
    except BaseException:
      self._release()
      raise
    return self

  def begin(self):
    """Writes config and versions, after which the directory belongs to this run.

    Raises:
      InputError: the directory is not writable.
    """
    with distributed.together(f'writing to {str(self.path)!r}'):
      if distributed.is_first():
        self._write_config()

  def mend(self):
    """Recreates the directory, without its checkpoints, if it was removed during training; reports a failure.

    Raises:
      InputError: another process trains in the directory now.
    """
    if distributed.is_first() and not (self.path / CONFIG).exists():
      say(f'{self.path} was removed, and is created again')
      if self._lock is not None:
        os.close(self._lock)
        self._lock = None
      try:
        self._take_lock()
        self._write_config()
      except _CannotWrite as error:
        say(f'{error}; training goes on and it is tried again')

  def _write_config(self):
    with self._clear_errors():
      atomic_files.write(self.path / CONFIG, gin.operative_config_str())
      versions.write(self.path)

  @contextlib.contextmanager
  def _clear_errors(self):
    try:
      yield
    except OSError as error:
      raise _CannotWrite(f'output_dir {str(self.path)!r} cannot be written to ({error}): free or grant space there, '
                         'or give another') from None

  def __exit__(self, *_):
    # The lock must last until the last write of this process ends, even after an error.
    self.store.wait_alone()
    self._release()

  def _take_lock(self):
    if self.path.exists() and not self.path.is_dir():
      raise InputError(f'output_dir {str(self.path)!r} is a file: give a folder')
    with self._clear_errors():
      self._lock = folder_lock.take(self.path, _LOCK, 'trains')

  def _check_same_run(self, store, step):
    self.notes, where = store.notes(step), str(store.folder.parent)
    changed = run_config.differences(self.notes['config'], self._config)
    if changed:
      raise InputError(f'{where!r} holds a run of another config: {"; ".join(changed)}. Give another '
                       'output_dir; a run may go on with other steps, frequencies, devices and places of its data only')
    for name, before in self.notes['data'].items():
      if self._data[name] != before:
        raise InputError(f'the {name} split has changed since the run in {where!r} began: it was {before}, '
                         f'and is {self._data[name]}')

  def _release(self):
    if self._lock is None:
      return
    if self._is_new and not self.store.steps() and not any(self.path.glob(f'*/{tensorboard.FILES}')):
      shutil.rmtree(self.path, ignore_errors=True)
    os.close(self._lock)
    self._lock = None


class _CannotWrite(InputError):
  """Signals that the file system refuses a write."""
