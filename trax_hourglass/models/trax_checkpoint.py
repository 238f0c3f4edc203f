"""Reads and writes Trax's checkpoint files without executing anything they contain.

A checkpoint is `NAME.pkl.gz`, a pickled dictionary, and usually `NAME.weights.npy.gz`, the weights as consecutive .npy
arrays. runtime/restricted_pickle.py defines what a pickle may contain.
"""

import gzip
import io
import os
import pickle
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from trax import shapes
from trax.layers import base

from trax_hourglass.runtime import atomic_files
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import restricted_pickle

_END = '.pkl.gz'
_MOST_UNPACKED, _MOST_RATIO = 1 << 24, 100  # Bytes; weights hardly compress, and slots are not all 0 after a step.


def read_weights(path):
  """Returns the flat list of weights, NumPy arrays, of a checkpoint written by Trax's loop or `Layer.save_to_file`.

  Args:
    path: the `.pkl.gz` file.

  Raises:
    InputError: the file is missing or damaged, holds no weights, or holds anything but arrays and plain containers.
  """
  contents = restricted_pickle.unpickle(path, _read_gzip(path))
  weights = contents.get('flat_weights') if isinstance(contents, dict) else None
  if isinstance(weights, int):  # The weights are in a separate file, and the number is its compression level.
    return _read_arrays(_weights_path(path))
  if not isinstance(weights, (list, tuple)) or not all(isinstance(w, np.ndarray) and _is_numbers(w) for w in weights):
    raise InputError(f'{path}: holds no list of weights, so it is not a checkpoint of a Trax model')
  return [_from_bits(w) for w in weights]


def read_step(path):
  """Returns the number of training steps of a checkpoint, or None if not recorded.

  Args:
    path: the `.pkl.gz` file.

  Raises:
    InputError: the file is missing or damaged, or holds anything but arrays and plain containers, or its step is not
      a whole number.
  """
  contents = restricted_pickle.unpickle(path, _read_gzip(path))
  step = contents.get('step') if isinstance(contents, dict) else None
  if step is not None and not isinstance(step, (int, np.integer)):
    raise InputError(f'{path}: its step is {str(step)[:30]!r} and no whole number, so it is not a checkpoint of Trax')
  return None if step is None else int(step)


def write_weights(path, weights, input_shape):
  """Writes a checkpoint of weights alone, for `init_from_file(..., weights_only=True)` and Trax's `init_checkpoint`.

  Args:
    path: ends with `.pkl.gz`.
    weights: flat list of arrays.
    input_shape: (batch, length) of the tokens the model was initialised with.

  Raises:
    InputError: the path has another ending.
  """
  _write(path, {
      'flat_weights': [np.asarray(w) for w in weights],
      'flat_state': [],
      'input_signature': shapes.ShapeDtype(tuple(input_shape), np.dtype(np.int32)),
  })


def write_model(path, model):
  """Writes the weights of an initialised Trax layer of one input; see `write_weights`."""
  weights, _ = base.flatten_weights_and_state(model.weights, model.state)
  write_weights(path, weights, input_shape=(1, 1))


def write_loop(path, model, slots, step, history, input_signature):
  """Writes a checkpoint, in one file, from which `trax.supervised.training.Loop` resumes.

  Args:
    path: ends with `.pkl.gz`.
    model: initialised Trax layer.
    slots: optimizer slots, in the form of Trax's optimizers.
    step: number of training steps.
    history: dictionary of a Trax `History`.
    input_signature: tuple of ShapeDtypes that the model was initialised with.

  Raises:
    InputError: the path has another ending.
  """
  weights, state = base.flatten_weights_and_state(model.weights, model.state)
  arrays = lambda leaves: [np.asarray(leaf) for leaf in leaves]
  _write(path, {
      'step': step,
      'flat_weights': arrays(weights),
      'flat_state': arrays(state),
      'slots_per_task': [arrays(jax.tree.leaves(slots))],
      'history': history,
      'input_signature': input_signature,
      'version_timestamp': 'Mar-10-2021',  # Trax's version of this layout.
  })


def _write(path, contents):
  """Writes a file atomically: under another name, then moved to the path."""
  check_name(path)
  with atomic_files.unfinished(path) as unfinished, gzip.open(unfinished, 'wb', compresslevel=2) as f:
    pickle.dump(contents, f)


def check_name(path):
  """Raises InputError unless the name has the ending that Trax reads."""
  if not str(path).endswith(_END):
    raise InputError(f'{path}: the name of a Trax checkpoint ends with {_END}')


def _weights_path(path):
  check_name(path)
  return f'{str(path)[:-len(_END)]}.weights.npy.gz'


def _read_gzip(path):
  try:
    most = _MOST_UNPACKED + _MOST_RATIO * os.path.getsize(path)
    with gzip.open(path) as f:
      content = f.read(most)
      if f.read(1):
        raise InputError(f'{path}: unpacks to more than {_MOST_RATIO} times its size, so it is not a checkpoint')
      return content
  except FileNotFoundError:
    raise InputError(f'{path}: no such file') from None
  except (OSError, EOFError, zlib.error) as error:
    raise InputError(f'{path}: cannot be read, {error}') from None


def _read_arrays(path):
  """Returns all arrays of a file; Trax's own reader would accept a truncated file as a shorter list."""
  stream = io.BytesIO(_read_gzip(path))
  size = stream.getbuffer().nbytes
  arrays = []
  while stream.tell() < size:
    try:
      array = np.lib.format.read_array(stream, allow_pickle=False)  # `np.load` would open archives too.
    except Exception as error:  # A damaged header can raise any exception.
      raise InputError(f'{path}: array {len(arrays)} is damaged, {error}') from None
    if not _is_numbers(array):
      raise InputError(f'{path}: array {len(arrays)} holds {array.dtype} and no numbers')
    arrays.append(_from_bits(array))
  return arrays


def _is_numbers(array):
  return array.dtype.kind in 'biuf'


def _from_bits(array):
  """Returns uint16 arrays as bfloat16, since Trax stores bfloat16 weights as uint16, which no weight has."""
  return array.view(jnp.bfloat16) if array.dtype == np.uint16 else array
