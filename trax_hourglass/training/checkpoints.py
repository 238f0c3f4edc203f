"""Checkpoints of a run: complete or absent, checked when they are read, written while training goes on.

Orbax writes the arrays: in the background, each host what it holds, under another name until all is there. A checkpoint
is

    DIR/checkpoints/STEP/weights/      of the model
                        /state/        of the model, where it has any
                        /slots/        of the optimizer
                        /notes.json    everything else
                        /SHA256SUMS    of all these files; `sha256sum -c SHA256SUMS` checks them too

Arrays are stored whole, in the order of `jax.tree.leaves`, so that any number of devices and hosts reads them.
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
from trax_hourglass.training.retention import Kept

FOLDER = 'checkpoints'
_NOTES = 'notes.json'
# Names in the history that notes hold: of losses, and of evaluations on a sample of the valid split, which versions
# before called as losses.
BITS, SAMPLE_BITS = 'metrics/BitsPerToken', 'metrics/SampleBitsPerToken'
_UNFINISHED, _DELETED, _DAMAGED, _REPLACED = '.unfinished', '.deleted', '.damaged', '.replaced'
PARTS = 'weights', 'state', 'slots'

# Orbax logs what it also raises, with pages of stack traces, and lets go of the rest of a write that failed.
logging.getLogger('absl').addFilter(lambda record: f'{os.sep}orbax{os.sep}' not in record.pathname)
logging.getLogger('asyncio').addFilter(
    lambda record: not any(word in record.getMessage() for word in (f'{os.sep}orbax{os.sep}', _UNFINISHED)))


class Store:
  """The checkpoints of a run directory. Methods are called by all hosts together, unless they say otherwise."""

  def __init__(self, output_dir, kept=Kept(), on_failure=None, on_written=None):
    """Opens the store; it need not exist yet.

    Args:
      output_dir: the run directory.
      kept: which checkpoints are kept.
      on_failure: called with (step, exception) when a checkpoint could not be written; None leaves it unsaid.
      on_written: called with the step when one was written and old ones are deleted; None for nothing.
    """
    self.folder = pathlib.Path(output_dir).absolute() / FOLDER
    self._kept, self._on_failure = kept, on_failure or (lambda step, error: None)
    self._on_written = on_written or (lambda step: None)
    self._writer = None
    # Step that is being written, by whom, and why it failed.
    self._pending, self._thread, self._error = None, None, None

  def tidy(self):
    """Removes what a process that was killed has left half written or half deleted."""
    if distributed.is_first() and self.folder.exists():
      for path in self.folder.iterdir():
        if path.name.endswith(_REPLACED) and not path.with_suffix('').exists():
          path.rename(path.with_suffix(''))  # Nothing had come in its place yet.
        elif _UNFINISHED in path.name or path.name.endswith((_DELETED, _REPLACED)):
          shutil.rmtree(path, ignore_errors=True)

  def save(self, step, arrays, notes):
    """Begins to write a checkpoint, after the one before is written; it takes the place of one of the same step.

    Args:
      step: of the checkpoint.
      arrays: {'weights': [...], 'state': [...], 'slots': [...]}, on devices; they may be donated once this returns.
      notes: dictionary for JSON; 'bits' says how good the checkpoint is, lower is better.
    """
    self.wait()
    # As text at once: what it is made of may change while the arrays are written.
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
    except Exception as error:  # Full disks surface as errors of several libraries.  pylint: disable=broad-except
      self._error = error
    else:
      self._thread = threading.Thread(target=self._finish, args=(step, unfinished, notes), name='checkpoint')
      self._thread.start()
    self.poll()

  def is_writing(self):
    """Returns whether this host is at work on a checkpoint. Any host may ask."""
    return self._thread is not None and self._thread.is_alive()

  def poll(self):
    """Deals with a checkpoint that is written by now, or could not be; waits for nothing.

    On several hosts nothing happens: they learn at different times that it is written, and deal with it together.
    """
    if self._pending is not None and not self.is_writing() and jax.process_count() == 1:
      self.wait()

  def wait(self):
    """Waits until the last checkpoint is written by all hosts, then deletes those that need not be kept."""
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
      self.tidy()  # Of one that failed, Orbax may have written on for a while.
      self._delete_old()
    self._on_written(step)

  def wait_alone(self):
    """Waits until this host is no longer at work on a checkpoint, and says if it could not be written.

    Any host may ask.
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
    self._writer = None  # It may still hold what failed.
    gc.collect()  # Orbax's coroutines that were cut off complain when they go at the end of the process.
    self.tidy()
    self._on_failure(step, error)

  def _delete_old(self):
    """Deletes what need not be kept; what cannot be deleted is said, and tried again next time."""
    for old in set(self.steps()) - self._kept.of({step: self._bits(step) for step in self.steps()}):
      try:
        shutil.rmtree(self._put_aside(old, _DELETED), ignore_errors=True)
      except OSError as error:
        say(f'the old checkpoint of step {old} could not be deleted: {error}')

  def steps(self):
    """Returns the steps of the checkpoints that were finished, rising. Any host may ask."""
    if not self.folder.is_dir():
      return []
    return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

  def best(self):
    """Returns the step of the checkpoint with the lowest bits, or None where none has any. Any host may ask."""
    bits = {step: self._bits(step) for step in self.steps()}
    scored = [step for step, value in bits.items() if value is not None]
    return min(scored, key=bits.get) if scored else None

  def newest_sound(self, put_aside=False):
    """Returns the newest step whose checkpoint is as it was written, or None if there is no checkpoint.

    What is damaged is named on stderr.

    Args:
      put_aside: whether to rename damaged ones to STEP.damaged, so that they are not in the way of new ones.

    Raises:
      InputError: there are checkpoints, and all are damaged.
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
    """Reads a whole checkpoint. Any host may ask.

    Raises:
      InputError: it does not exist, or a file of it is not as it was written.
    """
    path = self.folder / str(step)
    if not path.is_dir():
      raise InputError(f'there is no checkpoint of step {step} in {str(self.folder)!r}; there are: '
                       f'{", ".join(map(str, self.steps())) or "none"}')
    wrong = checksums.problem(path)
    if wrong is not None:
      raise InputError(f'the checkpoint {str(path)!r} is damaged ({wrong})')

  def adopt(self, step, other):
    """Copies a checkpoint of another store, whole or not at all. The first host alone calls it."""
    unfinished = self.folder / f'{step}{_UNFINISHED}'
    shutil.copytree(other.folder / str(step), unfinished)
    os.rename(unfinished, self.folder / str(step))

  def notes(self, step):
    """Returns the notes of a checkpoint that was checked. Any host may ask."""
    return json.loads((self.folder / str(step) / _NOTES).read_text())

  def restore(self, step, like):
    """Returns {'weights': [...], ...} of a checkpoint that was checked.

    Args:
      step: of the checkpoint.
      like: {part: [...]} of `jax.ShapeDtypeStruct`s with the sharding that each array shall have; some PARTS or all.

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
    """Returns {'weights': [...], ...} of a checkpoint that was checked, as NumPy arrays. Any host may ask."""
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
    """Waits for Orbax, adds notes and sums, and gives the whole its name; runs in a thread."""
    try:
      self._writer.wait_until_finished()
      if distributed.is_first():
        checksums.write(unfinished / _NOTES, notes)
        checksums.seal(unfinished)
        self._replace(step, unfinished)
    except Exception as error:  # pylint: disable=broad-except
      self._error = error

  def _replace(self, step, unfinished):
    """Gives a checkpoint its name; one that has it is there, or can be brought back by `tidy`, until then."""
    path = self.folder / str(step)
    before = self._put_aside(step, _REPLACED) if path.exists() else None
    os.rename(unfinished, path)
    if before:
      shutil.rmtree(before, ignore_errors=True)

  def _bits(self, step):
    try:
      return self.notes(step).get('bits')
    except (OSError, ValueError):  # Damaged: what that means is for `check` to say.
      return None

  def _put_aside(self, step, ending):
    """Renames a checkpoint, so that it is never half there under its own name; returns the new path."""
    aside = self.folder / f'{step}{ending}'
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(self.folder / str(step), aside)
    return aside


def abstract(arrays, sharding):
  """Returns arrays as what `Store.restore` wants: lists of `jax.ShapeDtypeStruct`.

  Args:
    arrays: {'weights': [...], ...}.
    sharding: function of an array that returns its sharding.
  """
  def like(x):
    x = x if hasattr(x, 'dtype') else np.asarray(x)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x))
  return jax.tree.map(like, arrays)


def _named(arrays):
  """Returns a list as a dictionary, as Orbax wants it, in the same order."""
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
