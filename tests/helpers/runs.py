"""Trains tiny runs and reads their run directories."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib

import gin
import tensorflow as tf

from trax_hourglass.training import fit
import trax_hourglass as th
from trax_hourglass.runtime import gin_config

TINY = str(pathlib.Path(__file__).parent.parent / 'tiny.gin')
# A hierarchy whose step compiles in a third of the time that the paper's resamplings take.
HOURGLASS = ("Hourglass.hierarchy = '0@1 1@3 0@1'", 'Hourglass.shortening = @ShortenByAverage',
             'Hourglass.upsampling = @UpsampleByRepeat')


def run(output_dir, *bindings):
  """Trains the tiny configuration and returns its result."""
  gin.clear_config()
  gin_config.parse_gin([TINY], bindings)
  return th.fit(str(output_dir))


def shared(folder):
  """Returns (run directory, file of its text, Result) of a run of 30 steps; trains it unless it is there.

  The text is of 1000 bytes, of which 50 are valid, and 50 test.
  """
  text, result = folder / 'text', folder / 'result.json'
  if not result.exists():
    folder.mkdir()
    text.write_bytes(bytes(range(97, 122)) * 40)
    found = run(folder / 'run', *HOURGLASS, f"ByteCorpus.path = '{text}'", 'n_steps = 30', 'fit.checkpoint_every = 30',
                'fit.eval_every = 30', 'Hourglass.max_length = 90')
    result.write_text(json.dumps(dataclasses.asdict(found)))
  return folder / 'run', text, fit.Result(**json.loads(result.read_text()))


def events(output_dir, tag, part='train'):
  """Returns [(step, value)] of a TensorBoard scalar."""
  found = []
  for file in sorted((output_dir / part).glob('events*')):
    with contextlib.suppress(tf.errors.DataLossError):  # As TensorBoard does, stop at a truncated event.
      for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(record)
        found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == tag]
  return found


def listing(folder):
  """Returns {path: hash} of all files below a folder."""
  return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
          for path in sorted(pathlib.Path(folder).rglob('*')) if path.is_file()}

# A checkpoint at every step, so that a stopped run keeps the same ones.
LONG = ('n_steps = 6', 'fit.eval_every = 3', 'fit.checkpoint_every = 1')
