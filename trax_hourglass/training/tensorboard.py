"""TensorBoard's files: nothing twice and nothing left out, whatever stopped a run or filled the disk."""

import itertools
import os
import pathlib
import platform
import time

import tensorflow as tf
from tensorflow.python.lib.io import _pywrap_record_io

from trax_hourglass.runtime import atomic_files
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime.progress import say

_VERSION = 'brain.Event:2'
_numbers = itertools.count()


class Events:
  """Scalars and texts of one part of a run, 'train' or 'eval'. What the disk refuses is kept and written later."""

  def __init__(self, folder):
    """Opens nothing yet.

    Args:
      folder: for a file of events, or None to write nothing.
    """
    self._folder, self._writer, self._waiting = folder, None, []

  def write(self, step, scalars):
    """Writes {tag: value} of a step."""
    self._add(step, tf.compat.v1.Summary(
        value=[tf.compat.v1.Summary.Value(tag=tag, simple_value=float(value)) for tag, value in scalars.items()]))

  def text(self, step, tag, text):
    """Writes a text in Markdown."""
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name='text'))
    self._add(step, tf.compat.v1.Summary(
        value=[tf.compat.v1.Summary.Value(tag=tag, metadata=metadata, tensor=tf.make_tensor_proto([text.encode()]))]))

  def close(self):
    """Closes the file; what is waiting is tried once more."""
    if self._waiting:
      self._flush()
    if self._writer:
      self._writer.close()
      self._writer = None

  def _add(self, step, summary):
    if self._folder is not None:
      self._waiting.append(tf.compat.v1.Event(wall_time=time.time(), step=step, summary=summary))
      self._flush()

  def _flush(self):
    """Writes what is waiting, if the disk lets it: training must not end for its curves."""
    try:
      if self._writer is None:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f'events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}.{next(_numbers)}'
        self._writer = tf.io.TFRecordWriter(str(self._folder / name))
        self._writer.write(tf.compat.v1.Event(wall_time=time.time(), file_version=_VERSION).SerializeToString())
      while self._waiting:  # One by one, so that it is known which ones are written.
        self._writer.write(self._waiting[0].SerializeToString())
        self._writer.flush()
        del self._waiting[0]
    except (OSError, tf.errors.OpError) as error:
      say(f'TensorBoard events could not be written to {self._folder}, which is tried again later: {error}')
      self._writer = None  # The file may end within an event; a new one is begun.


def drop_after(folder, step):
  """Takes out all events of later steps, and a last one that was cut in the middle, so that they can be written again.

  Args:
    folder: with files of events; it may be missing.
    step: the last one to keep.

  Raises:
    InputError: a file cannot be read or written.
  """
  for leftover in pathlib.Path(folder).glob('*.unfinished'):
    leftover.unlink()
  for path in sorted(pathlib.Path(folder).glob('events.out.tfevents.*')):
    try:
      _drop_after(path, step)
    except (OSError, tf.errors.OpError) as error:
      raise InputError(f'TensorBoard events of steps after {step} cannot be taken out of {str(path)!r} ({error}): make '
                       'it readable and writable, or remove it') from None


def _drop_after(path, step):
  kept, whole = [], True
  try:
    # tf.data would wake TensorFlow's devices up, which complain on stderr where there is no GPU.
    for record in _pywrap_record_io.RecordIterator(str(path), ''):
      if tf.compat.v1.Event.FromString(record).step <= step:
        kept.append(record)
      else:
        whole = False
  except tf.errors.DataLossError:
    whole = False
  if not whole:
    with atomic_files.unfinished(path) as unfinished, tf.io.TFRecordWriter(str(unfinished)) as writer:
      for record in kept:
        writer.write(record)
