"""Tiny training runs, and what they leave in a run directory."""

import contextlib
import hashlib
import pathlib

import gin
import tensorflow as tf

import trax_hourglass as th
from trax_hourglass.runtime import gin_config

TINY = str(pathlib.Path(__file__).parent.parent / 'tiny.gin')


def run(output_dir, *bindings):
  """Trains the tiny configuration and returns its result."""
  gin.clear_config()
  gin_config.parse_gin([TINY], bindings)
  return th.fit(str(output_dir))


def events(output_dir, tag, part='train'):
  """Returns [(step, value)] of a TensorBoard scalar."""
  found = []
  for file in sorted((output_dir / part).glob('events*')):
    with contextlib.suppress(tf.errors.DataLossError):  # TensorBoard too takes an event that was cut for the end.
      for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(record)
        found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == tag]
  return found


def listing(folder):
  """Returns {path: hash} of all files below a folder."""
  return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
          for path in sorted(pathlib.Path(folder).rglob('*')) if path.is_file()}

# A flat model, for it compiles in half the time; none of this depends on what the model is. Checkpoints of all steps,
# so that a run that was stopped keeps the same ones.
LONG = ('n_steps = 6', 'fit.eval_every = 3', 'fit.checkpoint_every = 1', "Hourglass.hierarchy = '1@1'")
