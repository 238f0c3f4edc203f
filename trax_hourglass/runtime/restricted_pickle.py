"""Reads pickles without running any code that they name.

A pickle can name any function to be called on reading. This reader accepts NumPy arrays, plain containers and the two
classes that Trax itself puts into its checkpoints, and rejects everything else by name.
"""

import collections
import io
import pickle
import struct

import numpy as np

from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import trax_compat  # Before Trax.  pylint: disable=unused-import

from trax import shapes

try:
  from numpy._core import multiarray  # NumPy 2
  from numpy._core import numeric
except ImportError:
  from numpy.core import multiarray
  from numpy.core import numeric


def _jax_array(function, args, array_state, *_):
  """Replaces JAX's functions that reconstruct arrays, and returns a NumPy array."""
  array = function(*args)
  array.__setstate__(array_state)
  return array


def _encode(text, encoding):
  """Replaces `codecs.encode`, by which protocols 0 to 2 store Python 3's bytes."""
  if encoding != 'latin1':
    raise InputError(f'it encodes by {encoding!r}')
  return text.encode('latin1')


_NUMBERS = ('bool_', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64', 'float16', 'float32',
            'float64')
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
    ('_codecs', 'encode'): _encode,
    **{('numpy', name): getattr(np, name) for name in _NUMBERS},
    **{(module, '_frombuffer'): numeric._frombuffer for module in ('numpy._core.numeric', 'numpy.core.numeric')},
    **{(module, name): getattr(multiarray, name)
       for module in ('numpy._core.multiarray', 'numpy.core.multiarray') for name in ('_reconstruct', 'scalar')},
}


class _Unpickler(pickle._Unpickler):
  """Extends Python's unpickler in Python; the one in C allocates as many memos, or bytes, as a file claims to have."""
  dispatch = dict(pickle._Unpickler.dispatch)

  def load_bytearray8(self):
    n, = struct.unpack('<Q', self.read(8))
    content = self.read(n)
    if len(content) < n:
      raise pickle.UnpicklingError('it ends within an array')
    self.append(bytearray(content))

  dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

  def find_class(self, module, name):
    if (module, name) not in _ADMITTED:
      raise InputError(f'it names {module}.{name}, and only numpy arrays and plain containers are read')
    return _ADMITTED[module, name]


def unpickle(path, data, encoding='ASCII'):
  """Returns the content of a pickle: NumPy arrays and plain containers.

  Args:
    path: source of the pickle, for messages.
    data: bytes of the pickle.
    encoding: encoding of strings that Python 2 wrote; 'bytes' leaves them as bytes.

  Raises:
    InputError: the pickle is damaged, or holds anything else.
  """
  try:
    return _Unpickler(io.BytesIO(data), encoding=encoding).load()
  except Exception as error:  # A damaged pickle can raise any error.
    raise InputError(f'{path}: refused, {error}') from None
