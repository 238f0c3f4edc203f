"""Writes a run's checkpoints atomically while training continues, and verifies them by checksum when they are read.

Orbax writes the arrays in the background, each host its own shards. A checkpoint has a temporary name until complete.
Its files are

    DIR/checkpoints/STEP/weights/      of the model
                        /state/        of the model, if it has any
                        /slots/        of the optimizer
                        /notes.json    everything else
                        /SHA256SUMS    checksums of all these files, also for `sha256sum -c SHA256SUMS`

Arrays have their global shapes and the order of `jax.tree.leaves`, so that any number of devices and hosts can read
them.
"""

import gc
import json
import logging
import os
import pathlib
import shutil
import threading

import jax
import numpy as np

from trax_hourglass.runtime import distributed
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime.progress import say
from trax_hourglass.training import checksums
from trax_hourglass.training import quiet_orbax
from trax_hourglass.training import retention

FOLDER = 'checkpoints'
_NOTES = 'notes.json'
# Names in the history that notes hold: of training losses, and of evaluations on a sample of the valid split. Versions
# up to 0.2 used the first name for both.
BITS, SAMPLE_BITS = 'metrics/BitsPerToken', 'metrics/SampleBitsPerToken'
_UNFINISHED, _DELETED, _DAMAGED, _REPLACED = '.unfinished', '.deleted', '.damaged', '.replaced'
PARTS = 'weights', 'state', 'slots'

# Orbax also logs the errors that it raises, with pages of stack traces, and abandons the rest of a failed write.
logging.getLogger('absl').addFilter(lambda record: f'{os.sep}orbax{os.sep}' not in record.pathname)
logging.getLogger('asyncio').addFilter(
    lambda record: not any(word in record.getMessage() for word in (f'{os.sep}orbax{os.sep}', _UNFINISHED)))


class Store:
  """Manages the checkpoints of a run directory. All hosts must call a method together, unless it says otherwise."""

  def __init__(self, output_dir, kept=retention.Kept(), on_failure=None, on_written=None):
    """Opens the store, whose folder need not exist yet.

    Args:
      output_dir: the run directory.
      kept: the retention policy for checkpoints.
      on_failure: called with (step, exception) when a checkpoint could not be written; None ignores the failure.
      on_written: called with the step when a checkpoint is written and old ones are deleted; None for no call.
    """
    self.folder = pathlib.Path(output_dir).absolute() / FOLDER
    self._kept, self._on_failure = kept, on_failure or (lambda step, error: None)
    self._on_written = on_written or (lambda step: None)
    self._writer = None
    # The step being written, the thread that writes it, and the error if it failed.
    self._pending, self._thread, self._error = None, None, None

  def tidy(self):
    """Removes checkpoints that a killed process left partly written or partly deleted."""
    if distributed.is_first() and self.folder.exists():
      for path in self.folder.iterdir():
        if path.name.endswith(_REPLACED) and not path.with_suffix('').exists():
          path.rename(path.with_suffix(''))  # It was not replaced yet.
        elif _UNFINISHED in path.name or path.name.endswith((_DELETED, _REPLACED)):
          shutil.rmtree(path, ignore_errors=True)

  def save(self, step, arrays, notes):
    """Starts to write a checkpoint, after waiting for the previous one; replaces an existing one of the same step.

    Args:
      step: step of the checkpoint.
      arrays: {'weights': [...], 'state': [...], 'slots': [...]}, on devices; may be donated after this call.
      notes: dictionary for JSON; its 'bits' rate the checkpoint, lower is better.
    """
    self.wait()
    # Serialized now, since the caller may change the notes while the arrays are written.
    notes = json.dumps({**notes, 'step': step, 'shapes': {part: _shapes(of_part) for part, of_part in arrays.items()}})
    self._pending, self._error = step, None
    unfinished = self.folder / f'{step}{_UNFINISHED}'
    ocp = quiet_orbax.orbax()
    try:
      with distributed.together(f'making {str(self.folder)!r}'):
        if distributed.is_first():
          self.folder.mkdir(parents=True, exist_ok=True)
      if self._writer is None:
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
      self._writer.save(unfinished, force=True, args=ocp.args.Composite(
          **{part: ocp.args.StandardSave(_named(of_part)) for part, of_part in arrays.items() if of_part}))
    except Exception as error:  # A full disk surfaces as errors of several libraries.  pylint: disable=broad-except
      self._error = error
    else:
      self._thread = threading.Thread(target=self._finish, args=(step, unfinished, notes), name='checkpoint')
      self._thread.start()
    self.poll()

  def is_writing(self):
    """Returns whether this host is writing a checkpoint. Any host may call this alone."""
    return self._thread is not None and self._thread.is_alive()

  def poll(self):
    """Completes a checkpoint whose write has ended or failed, without waiting.

    Does nothing on several hosts: they see the end of the write at different times and must complete it together.
    """
    if self._pending is not None and not self.is_writing() and jax.process_count() == 1:
      self.wait()

  def wait(self):
    """Waits until all hosts have written the last checkpoint, then deletes old checkpoints."""
    if self._pending is None:
      return
    self._join()
    step, self._pending = self._pending, None
    try:
      with distributed.together(f'writing the checkpoint of step {step}'):
        if self._error is not None:
          raise self._error
    except Exception as error:  # pylint: disable=broad-except
      self._failed(step, error)
      return
    if distributed.is_first():
      self.tidy()  # Orbax may have continued a failed write for a while.
      self._delete_old()
    self._on_written(step)

  def wait_alone(self):
    """Waits until this host has finished writing a checkpoint, and reports a failure to `on_failure`.

    Any host may call this alone.
    """
    self._join()
    step, self._pending = self._pending, None
    if self._error is not None and step is not None:
      self._failed(step, self._error)

  def _join(self):
    if self._thread:
      self._thread.join()
      self._thread = None

  def _failed(self, step, error):
    self._writer = None  # It may still hold the failed write.
    gc.collect()  # Else abandoned Orbax coroutines would print warnings at the end of the process.
    self.tidy()
    self._on_failure(step, error)

  def _delete_old(self):
    """Deletes checkpoints outside the retention policy; reports failures, which the next call tries again."""
    for old in set(self.steps()) - self._kept.of({step: self._bits(step) for step in self.steps()}):
      try:
        shutil.rmtree(self._put_aside(old, _DELETED), ignore_errors=True)
      except OSError as error:
        say(f'the old checkpoint of step {old} could not be deleted: {error}')

  def steps(self):
    """Returns the steps of complete checkpoints in ascending order. Any host may call this alone."""
    if not self.folder.is_dir():
      return []
    return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

  def best(self):
    """Returns the step of the checkpoint with the lowest bits, or None if none has bits. Any host may call this."""
    return retention.best({step: self._bits(step) for step in self.steps()})

  def newest_sound(self, put_aside=False):
    """Returns the newest step whose checkpoint passes its checksums, or None without checkpoints.

    Reports damaged checkpoints on stderr.

    Args:
      put_aside: whether to rename damaged checkpoints to STEP.damaged, so that new ones can take their names.

    Raises:
      InputError: all checkpoints are damaged.
    """
    found, said = -1, ''
    if distributed.is_first():
      problems = []
      for step in reversed(self.steps()):
        try:
          self.check(step)
        except InputError as error:
          problems.append((step, error))
          continue
        found = step
        break
      said = '; '.join(str(error) for _, error in problems)
      if found >= 0:
        for step, error in problems:
          say(f'{error}: the one of step {found} is taken')
          if put_aside:
            self._put_aside(step, _DAMAGED)
      elif problems:
        found = -2
    found = distributed.first_says(found)
    if found == -2:
      raise InputError(f'all checkpoints in {str(self.folder)!r} are damaged, and nothing was changed: '
                       f'{said or "see host 0"}')
    return None if found < 0 else found

  def check(self, step):
    """Verifies a checkpoint by its checksums. Any host may call this alone.

    Raises:
      InputError: the checkpoint does not exist, or one of its files is damaged.
    """
    path = self.folder / str(step)
    if not path.is_dir():
      raise InputError(f'there is no checkpoint of step {step} in {str(self.folder)!r}; there are: '
                       f'{", ".join(map(str, self.steps())) or "none"}')
    wrong = checksums.problem(path)
    if wrong is not None:
      raise InputError(f'the checkpoint {str(path)!r} is damaged ({wrong})')

  def adopt(self, step, other):
    """Copies a checkpoint of another store atomically. Only the first host calls this."""
    unfinished = self.folder / f'{step}{_UNFINISHED}'
    shutil.copytree(other.folder / str(step), unfinished)
    os.rename(unfinished, self.folder / str(step))

  def notes(self, step):
    """Returns the notes of a checkpoint that was checked. Any host may call this alone."""
    return json.loads((self.folder / str(step) / _NOTES).read_text())

  def restore(self, step, like):
    """Returns {'weights': [...], ...} of a checkpoint that was checked.

    Args:
      step: step of the checkpoint.
      like: {part: [...]} of `jax.ShapeDtypeStruct`s with the sharding of each array to return; some or all of PARTS.

    Raises:
      InputError: the checkpoint's arrays have other shapes.
    """
    stored = self.notes(step)['shapes']
    for part, of_part in like.items():
      if stored[part] != _shapes(of_part):
        raise InputError(f'the checkpoint of step {step} in {str(self.folder)!r} does not fit the model: '
                         f'{_difference(stored[part], _shapes(of_part), part)}: give the config that it was trained '
                         'with')
    return self._read(step, like)

  def read(self, step):
    """Returns {'weights': [...], ...} of a checked checkpoint as NumPy arrays. Any host may call this alone."""
    like = {part: [np.empty(shape, dtype) for shape, dtype in of_part]
            for part, of_part in self.notes(step)['shapes'].items()}
    host = jax.process_index()
    return self._read(step, like, multiprocessing_options=quiet_orbax.orbax().options.MultiprocessingOptions(
        primary_host=host, active_processes={host}, barrier_sync_key_prefix=f'host{host}'))

  def _read(self, step, like, **options):
    ocp = quiet_orbax.orbax()
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(), **options) as reader:
      read = reader.restore(self.folder / str(step), args=ocp.args.Composite(
          **{part: ocp.args.StandardRestore(_named(of_part)) for part, of_part in like.items() if of_part}))
    return {part: [read[part][name] for name in _named(of_part)] for part, of_part in like.items()}

  def _finish(self, step, unfinished, notes):
    """Waits for Orbax, adds notes and checksums, and renames the checkpoint to its step; runs in a thread."""
    try:
      self._writer.wait_until_finished()
      if distributed.is_first():
        checksums.write(unfinished / _NOTES, notes)
        checksums.seal(unfinished)
        self._replace(step, unfinished)
    except Exception as error:  # pylint: disable=broad-except
      self._error = error

  def _replace(self, step, unfinished):
    """Renames a complete checkpoint to its step; until then `tidy` can restore an older one of that step."""
    path = self.folder / str(step)
    before = self._put_aside(step, _REPLACED) if path.exists() else None
    os.rename(unfinished, path)
    if before:
      shutil.rmtree(before, ignore_errors=True)

  def _bits(self, step):
    try:
      return self.notes(step).get('bits')
    except (OSError, ValueError):  # Damaged, which `check` reports.
      return None

  def _put_aside(self, step, ending):
    """Renames a checkpoint, so that no partial one ever has the final name; returns the new path."""
    aside = self.folder / f'{step}{ending}'
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(self.folder / str(step), aside)
    return aside


def abstract(arrays, sharding):
  """Returns lists of `jax.ShapeDtypeStruct` for arrays, as `Store.restore` expects them.

  Args:
    arrays: {'weights': [...], ...}.
    sharding: function array -> sharding.
  """
  def like(x):
    x = x if hasattr(x, 'dtype') else np.asarray(x)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x))
  return jax.tree.map(like, arrays)


def _named(arrays):
  """Returns a list as a dictionary in the same order, as Orbax expects it."""
  return {f'{number:04d}': x for number, x in enumerate(arrays)}


def _shapes(arrays):
  return [[list(x.shape), str(x.dtype)] for x in arrays]


def _difference(stored, wanted, name):
  if len(stored) != len(wanted):
    return f'it holds {len(stored)} {name} where {len(wanted)} are wanted'
  number = next(i for i, pair in enumerate(zip(stored, wanted)) if pair[0] != pair[1])
  (shape, dtype), (wanted_shape, wanted_dtype) = stored[number], wanted[number]
  return (f'array {number} of its {name} has shape {tuple(shape)} and type {dtype} where {tuple(wanted_shape)} and '
          f'{wanted_dtype} are wanted')
