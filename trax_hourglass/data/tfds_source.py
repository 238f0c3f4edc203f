"""Examples of data sets that TensorFlow Datasets (TFDS) prepares, in the order of its files."""

import contextlib
import os
import sys
import urllib.error
import urllib.request

from trax_hourglass.runtime import deferred_imports
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import progress

# TFDS tries a download for minutes before it gives up; this tells sooner. Its own data lie on this host.
_PROBE = 'https://storage.googleapis.com/tfds-data'
_PROBE_SECONDS = 10


def builder(name, data_dir):
  """Returns TFDS's builder of a data set, which may not be prepared yet.

  Args:
    name: TFDS's name, such as 'wiki40b/en'.
    data_dir: TFDS's folder, in which it is or will be; None for TFDS's own choice.

  Raises:
    InputError: TFDS does not know it.
  """
  tfds = deferred_imports.import_quietly('tensorflow_datasets')  # Takes seconds.
  try:
    return tfds.builder(name, data_dir=data_dir and os.path.expanduser(data_dir))
  except tfds.core.registered.DatasetNotFoundError as error:
    raise InputError(f'TFDS does not know {name}') from error


def examples(made, split, feature, by_hand, change=lambda value: value):
  """Yields one feature of all examples of a split; downloads and prepares the data set if need be.

  Args:
    made: a builder.
    split: TFDS's name of it.
    feature: its name.
    by_hand: what to do if TFDS cannot prepare the data set, ends the message.
    change: function of a tensor, run within tf.data.

  Raises:
    InputError: it is not prepared and cannot be, or its files are damaged, cut off or missing.
  """
  import tensorflow as tf  # pylint: disable=g-import-not-at-top
  try:
    data = made.as_dataset(split=split, shuffle_files=False)
  except AssertionError:  # TFDS's way to say that it is not prepared.
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
  """Downloads and prepares; a half-prepared data set stays under TFDS's own temporary name."""
  try:
    _check_network()
    with contextlib.redirect_stdout(sys.stderr):  # TFDS prints; stdout belongs to results.
      made.download_and_prepare()
  except Exception as error:  # Its downloads and parsers raise anything at all.  pylint: disable=broad-except
    reason = ' '.join((str(error) or type(error).__name__).split())
    raise InputError(f'TFDS has not prepared {made.info.full_name} in {made.data_dir} and cannot ({reason}): '
                     f'{by_hand}') from error


def _check_network():
  with contextlib.suppress(urllib.error.HTTPError):  # An answer all the same.
    urllib.request.urlopen(urllib.request.Request(_PROBE, method='HEAD'), timeout=_PROBE_SECONDS).close()
