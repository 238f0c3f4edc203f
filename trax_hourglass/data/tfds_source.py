"""Reads examples of data sets that TensorFlow Datasets (TFDS) prepares, in the order of its files."""

import contextlib
import os
import sys
import urllib.error
import urllib.request

from trax_hourglass.runtime import deferred_imports
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import progress

# TFDS tries a download for minutes before it fails; a probe of the host of its data fails sooner.
_PROBE = 'https://storage.googleapis.com/tfds-data'
_PROBE_SECONDS = 10


def builder(name, data_dir):
  """Returns TFDS's builder of a data set, which may not be prepared yet.

  Args:
    name: TFDS's name, such as 'wiki40b/en'.
    data_dir: TFDS's folder, which holds or will hold the data set; None for TFDS's default.

  Raises:
    InputError: TFDS does not know the name.
  """
  tfds = deferred_imports.import_quietly('tensorflow_datasets')  # Takes seconds.
  try:
    return tfds.builder(name, data_dir=data_dir and os.path.expanduser(data_dir))
  except tfds.core.registered.DatasetNotFoundError as error:
    raise InputError(f'TFDS does not know {name}') from error


def examples(made, split, feature, by_hand, change=lambda value: value):
  """Yields one feature of all examples of a split; downloads and prepares the data set if needed.

  Args:
    made: a builder.
    split: TFDS's name of the split.
    feature: name of the feature.
    by_hand: remedy if TFDS cannot prepare the data set, which ends the message.
    change: function of a tensor, run within tf.data.

  Raises:
    InputError: the data set is not prepared and cannot be, or its files are damaged, truncated or missing.
  """
  import tensorflow as tf  # pylint: disable=g-import-not-at-top
  try:
    data = made.as_dataset(split=split, shuffle_files=False)
  except AssertionError:  # TFDS raises this for an unprepared data set.
    _prepare(made, by_hand)
    data = made.as_dataset(split=split, shuffle_files=False)
  data = data.map(lambda example: change(example[feature]), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  try:
    with progress.progress(f'reading {made.name} {split}', unit='example') as bar:
      for example in data.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        bar.update()
        yield example
  except tf.errors.OpError as error:
    reason = (error.message or type(error).__name__).split('}} ')[-1]  # Without the node of TensorFlow's graph.
    raise InputError(f'the split {split} of TFDS in {str(made.data_dir)!r} cannot be read ({reason}): a file of it is '
                     'damaged or missing, remove the folder and prepare it again') from error


def _prepare(made, by_hand):
  """Downloads and prepares a data set; a partial one stays under TFDS's own temporary name."""
  try:
    _check_network()
    with contextlib.redirect_stdout(sys.stderr):  # TFDS prints, and stdout belongs to results.
      made.download_and_prepare()
  except Exception as error:  # Its downloads and parsers raise arbitrary errors.  pylint: disable=broad-except
    reason = ' '.join((str(error) or type(error).__name__).split())
    raise InputError(f'TFDS has not prepared {made.info.full_name} in {made.data_dir} and cannot ({reason}): '
                     f'{by_hand}') from error


def _check_network():
  with contextlib.suppress(urllib.error.HTTPError):  # An error answer also proves a connection.
    urllib.request.urlopen(urllib.request.Request(_PROBE, method='HEAD'), timeout=_PROBE_SECONDS).close()
