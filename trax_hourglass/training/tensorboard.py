"""Writes TensorBoard files from a run's history, without reading old ones: each point once, even after a crash."""

import collections
import contextlib
import os
import platform
import time

import gin

from trax_hourglass.runtime.progress import say

_VERSION = 'brain.Event:2'
FILES = 'events.out.tfevents.*'


class Events:
  """Writes the scalars of one part of a run, 'train' or 'eval'; retries failed writes later."""

  def __init__(self, folder, logged=(), texts=()):
    """Replaces the folder's files by one file with all points logged so far; without files and points writes nothing.

    Args:
      folder: pathlib.Path of the folder, which need not exist; None to write nothing.
      logged: [(step, seconds since 1970, {tag: value})].
      texts: [(tag, text in Markdown)], shown at step 1.
    """
    self._folder, self._logged, self._texts = folder, list(logged), list(texts)
    self._file, self._n_written = None, 0
    if folder is not None and (self._logged or any(folder.glob(FILES))):
      self._flush()

  def write(self, step, seconds, scalars):
    """Writes {tag: value} of a step, logged at `seconds` since 1970."""
    if self._folder is not None:
      self._logged.append((step, seconds, scalars))
      self._flush()

  def close(self):
    """Closes the file, after a last retry of failed writes."""
    if self._folder is not None and self._n_written < len(self._logged):
      self._flush()
    self._leave()

  def _flush(self):
    """Writes the pending points; an error of the disk is reported, but does not stop training."""
    try:
      if self._file is None:
        self._replace()
      else:
        _write(self._file, self._logged[self._n_written:])
      self._n_written = len(self._logged)
    except OSError as error:
      say(f'TensorBoard events could not be written to {self._folder}, which is tried again later: {error}')
      self._leave()  # The file may end within an event, so a new file replaces it.

  def _leave(self):
    if self._file is not None:
      with contextlib.suppress(OSError):  # The failed write was reported.
        self._file.close()
      self._file = None

  def _replace(self):
    """Starts a file with all logged points; deletes older files once it has its final name."""
    self._folder.mkdir(parents=True, exist_ok=True)
    before = list(self._folder.glob(FILES))
    path = self._folder / f'events.out.tfevents.{time.time_ns() // 1000}.{platform.node()}.{os.getpid()}'
    unfinished = self._folder / 'unfinished'
    self._file = open(unfinished, 'wb')
    _write(self._file, self._logged, self._texts, is_first=True)
    unfinished.rename(path)
    for old in before:
      try:
        old.unlink()
      except OSError as error:
        say(f'{old} could not be removed, and TensorBoard may show its points too: {error}')


def of_history(folder, history, part, logged_at):
  """Returns the Events of a part of a run, with its points in Trax's history; 'train' also shows gin's config.

  Args:
    folder: see `Events`.
    history: the History.
    part: 'train' or 'eval'.
    logged_at: {step as text: seconds since 1970}, as far as known.
  """
  scalars = collections.defaultdict(dict)
  for name in history.metrics_for_mode(part):
    for step, value in history.get(part, name):
      scalars[step][name] = value
  logged = [(step, logged_at.get(str(step), time.time()), scalars[step]) for step in sorted(scalars)]
  config = ''.join(f'    {line}\n' for line in gin.operative_config_str().splitlines())  # A Markdown code block.
  return Events(folder, logged, [('gin_config', config)] if part == 'train' else [])


def _write(file, logged, texts=(), is_first=False):
  """Appends events to a file; before them the format version, if `is_first`, and the texts."""
  # The imports take half a second.  pylint: disable=g-import-not-at-top
  from tensorboard.compat.proto import event_pb2
  from tensorboard.compat.proto import summary_pb2
  from tensorboard.plugins.text import summary_v2
  from tensorboard.summary.writer.record_writer import RecordWriter
  events = [event_pb2.Event(wall_time=time.time(), file_version=_VERSION)] if is_first else []
  events += [event_pb2.Event(wall_time=time.time(), step=1, summary=summary_v2.text_pb(*text)) for text in texts]
  for step, seconds, scalars in logged:
    values = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    events.append(event_pb2.Event(wall_time=seconds, step=step, summary=summary_pb2.Summary(value=values)))
  writer = RecordWriter(file)
  for event in events:
    writer.write(event.SerializeToString())
  writer.flush()
