"""Reading and writing Trax's checkpoint files without running anything they hold.

A checkpoint is `NAME.pkl.gz`, a pickled dictionary, and mostly `NAME.weights.npy.gz`, the weights as one .npy after the
other. A pickle can name any function to be called on reading; this reader knows numpy arrays, plain containers and the
two classes that Trax itself puts there, and refuses everything else by name.
"""

import collections
import gzip
import io
import pickle
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from trax import shapes
from trax.layers import base

from trax_hourglass.runtime import atomic_files

try:
  from numpy._core import multiarray  # NumPy 2
except ImportError:
  from numpy.core import multiarray

_END = '.pkl.gz'


def _jax_array(function, args, array_state, *_):
  """Stands in for JAX's own function of that name and makes a NumPy array."""
  array = function(*args)
  array.__setstate__(array_state)
  return array


_ADMITTED = {
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('collections', 'defaultdict'): collections.defaultdict,
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('builtins', 'list'): list,
    ('builtins', 'dict'): dict,
    ('trax.shapes', 'ShapeDtype'): shapes.ShapeDtype,
    ('jax._src.array', '_reconstruct_array'): _jax_array,
    ('jax._src.device_array', 'reconstruct_device_array'): _jax_array,
    ('jax.interpreters.xla', 'reconstruct_device_array'): _jax_array,
    **{('numpy', name): getattr(np, name)
       for name in ('bool_', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64', 'float16', 'float32',
                    'float64')},
    **{(module, name): getattr(multiarray, name)
       for module in ('numpy._core.multiarray', 'numpy.core.multiarray') for name in ('_reconstruct', 'scalar')},
}


class _Unpickler(pickle.Unpickler):

  def find_class(self, module, name):
    if (module, name) not in _ADMITTED:
      raise ValueError(f'it names {module}.{name}, and only numpy arrays and plain containers are read')
    return _ADMITTED[module, name]


def read_weights(path):
  """Returns the flat list of weights, numpy arrays, of a checkpoint written by Trax's loop or `Layer.save_to_file`.

  Args:
    path: the `.pkl.gz` file.

  Raises:
    ValueError: the file is missing, damaged, holds no weights, or holds anything but arrays and plain containers.
  """
  contents = unpickle(path, _read_gzip(path))
  weights = contents.get('flat_weights') if isinstance(contents, dict) else None
  if isinstance(weights, int):  # They are in a file beside it; the number is that file's compression level.
    return _read_arrays(_weights_path(path))
  if not isinstance(weights, (list, tuple)) or not all(isinstance(w, np.ndarray) and _is_numbers(w) for w in weights):
    raise ValueError(f'{path}: holds no list of weights, so it is no checkpoint of a Trax model')
  return [_from_bits(w) for w in weights]


def read_step(path):
  """Returns how many steps a checkpoint was trained for, or None where it does not say.

  Args:
    path: the `.pkl.gz` file.

  Raises:
    ValueError: the file is missing or damaged, or holds anything but arrays and plain containers; its step is no number.
  """
  contents = unpickle(path, _read_gzip(path))
  step = contents.get('step') if isinstance(contents, dict) else None
  if step is not None and not isinstance(step, (int, np.integer)):
    raise ValueError(f'{path}: its step is {str(step)[:30]!r} and no whole number, so it is no checkpoint of Trax')
  return None if step is None else int(step)


def write_weights(path, weights, input_shape):
  """Writes a checkpoint of weights alone, for `init_from_file(..., weights_only=True)` and Trax's `init_checkpoint`.

  Args:
    path: ends with `.pkl.gz`.
    weights: flat list of arrays.
    input_shape: (batch, length) of the tokens the model was initialised with.

  Raises:
    ValueError: another ending.
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
  """Writes a checkpoint that `trax.supervised.training.Loop` goes on from, all of it in one file.

  Args:
    path: ends with `.pkl.gz`.
    model: initialised Trax layer.
    slots: of its optimizer, as Trax's optimizers hold them.
    step: steps trained.
    history: dictionary of a Trax `History`.
    input_signature: tuple of ShapeDtypes that the model was initialised with.

  Raises:
    ValueError: another ending.
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
      'version_timestamp': 'Mar-10-2021',  # Of the layout; Trax's own.
  })


def _write(path, contents):
  """Writes under another name and moves the whole file there."""
  check_name(path)
  with atomic_files.unfinished(path) as unfinished, gzip.open(unfinished, 'wb', compresslevel=2) as f:
    pickle.dump(contents, f)


def check_name(path):
  """Raises ValueError unless the name is one that Trax reads."""
  if not str(path).endswith(_END):
    raise ValueError(f'{path}: the name of a Trax checkpoint ends with {_END}')


def _weights_path(path):
  check_name(path)
  return f'{str(path)[:-len(_END)]}.weights.npy.gz'


def _read_gzip(path):
  try:
    with gzip.open(path) as f:
      return f.read()
  except FileNotFoundError:
    raise ValueError(f'{path}: no such file') from None
  except (OSError, EOFError, zlib.error) as error:
    raise ValueError(f'{path}: cannot be read, {error}') from None


def unpickle(path, data, encoding='ASCII'):
  """Returns what a pickle holds, numpy arrays and plain containers.

  Args:
    path: where it was read, for messages.
    data: its bytes.
    encoding: of strings that Python 2 wrote; 'bytes' leaves them as bytes.

  Raises:
    ValueError: it is damaged, or holds anything else.
  """
  try:
    return _Unpickler(io.BytesIO(data), encoding=encoding).load()
  except Exception as error:  # A damaged pickle can raise anything at all.
    raise ValueError(f'{path}: refused, {error}') from None


def _read_arrays(path):
  """Returns all arrays of a file; Trax's own reader would take a truncated one for a shorter list."""
  stream = io.BytesIO(_read_gzip(path))
  size = stream.getbuffer().nbytes
  arrays = []
  while stream.tell() < size:
    try:
      array = np.lib.format.read_array(stream, allow_pickle=False)  # `np.load` would open archives too.
    except Exception as error:  # A damaged header can raise anything at all.
      raise ValueError(f'{path}: array {len(arrays)} is damaged, {error}') from None
    if not _is_numbers(array):
      raise ValueError(f'{path}: array {len(arrays)} holds {array.dtype} and no numbers')
    arrays.append(_from_bits(array))
  return arrays


def _is_numbers(array):
  return array.dtype.kind in 'biuf'


def _from_bits(array):
  """Trax stores bfloat16 as the bits of a uint16, a type that no weight has."""
  return array.view(jnp.bfloat16) if array.dtype == np.uint16 else array
