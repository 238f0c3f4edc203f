"""Reads and writes weights: Trax's `.pkl.gz` in our order or the authors', or `.safetensors` with names and config."""

import hashlib
import pathlib
import typing

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from trax_hourglass.models import interop
from trax_hourglass.models import trax_checkpoint
from trax_hourglass.models import weight_names
from trax_hourglass.runtime import atomic_files
from trax_hourglass.runtime.errors import InputError

TRAX, SAFE = '.pkl.gz', '.safetensors'
_FORMAT, _SUM = 'trax_hourglass', 'sha256'
_SHOWN = 5  # Number of weights that an error lists.


class Stored(typing.NamedTuple):
  """Holds weights as read from a file.

  Attributes:
    where: path of the file, for messages.
    arrays: arrays of the weights.
    names: names of the weights, see weight_names.py; None if the file has none.
    step: number of training steps; None if the file does not record one.
    config: text of the model's gin config; None if the file has none.
  """
  where: str
  arrays: list
  names: list | None = None
  step: int | None = None
  config: str | None = None

  def shape_of(self, name):
    """Returns the shape of the weight of this name, which must be the model's first; () if missing."""
    if self.names is not None:
      return next((array.shape for array, of_one in zip(self.arrays, self.names) if of_one == name), ())
    return self.arrays[0].shape if self.arrays else ()


def is_file(name):
  """Returns whether a name has the ending of a weight file."""
  return str(name).endswith((TRAX, SAFE))


def check_name(path):
  """Raises InputError unless the path has the ending of a weight file."""
  if not is_file(path):
    raise InputError(f'{path}: the name of a file of weights ends with {TRAX} or {SAFE}')


def read(path):
  """Returns the Stored weights of a file.

  Raises:
    InputError: the file is missing, damaged, or holds anything but weights.
  """
  check_name(path)
  if str(path).endswith(TRAX):
    return Stored(str(path), trax_checkpoint.read_weights(path), step=trax_checkpoint.read_step(path))
  try:
    with safetensors.safe_open(path, framework='np') as f:
      described, names = f.metadata() or {}, list(f.keys())
      arrays = [f.get_tensor(name) for name in names]
  except FileNotFoundError:
    raise InputError(f'{path}: no such file') from None
  except (OSError, safetensors.SafetensorError, AttributeError, TypeError, ValueError) as error:
    # The NumPy reader supports fewer types than the format, and fails on others in several ways.
    raise InputError(f'{path}: cannot be read, {error}') from None
  expected = described.pop(_SUM, None)
  if (expected or described.get('format') == _FORMAT) and expected != _digest(dict(zip(names, arrays)), described):
    raise InputError(f'{path}: is damaged, it is not what its {_SUM} is of: fetch or export it again')
  for name, array in zip(names, arrays):
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise InputError(f'{path}: {name} holds {array.dtype}, where weights are floating-point numbers')
  step = described.get('step', '')
  return Stored(str(path), arrays, names, int(step) if step.isdecimal() else None, described.get('config'))


def write(path, model, step=None, config=None, dtype='float32'):
  """Writes an initialised model's weights.

  Args:
    path: ends with `.pkl.gz`, for `init_from_file` of the same model within Trax; or `.safetensors`.
    model: the model.
    step: number of training steps, kept in a `.safetensors`.
    config: text of the model's gin config, kept in a `.safetensors`.
    dtype: type of the weights in a `.safetensors`.

  Raises:
    InputError: the path has another ending, or this dtype cannot hold a weight.
  """
  check_name(path)
  if str(path).endswith(TRAX):
    trax_checkpoint.write_model(path, model)
    return
  with np.errstate(over='ignore'):
    named = {name: np.asarray(leaf, dtype, order='C')  # `ascontiguousarray` would make a scalar an array of one.
             for name, leaf in zip(weight_names.names(model), jax.tree.leaves(model.weights), strict=True)}
  for name, array in named.items():
    if not np.isfinite(array).all():
      raise InputError(f'{path}: {name} holds numbers that {dtype} cannot: write another dtype')
  described = {'format': _FORMAT, **({} if step is None else {'step': str(step)}),
               **({} if config is None else {'config': config})}
  described[_SUM] = _digest(named, described)
  with atomic_files.unfinished(path) as unfinished:  # Only the owner could read what `save_file` writes.
    pathlib.Path(unfinished).write_bytes(safetensors_numpy.save(named, metadata=described))


def take(stored, model, partial=False):
  """Sets an initialised model's weights from stored ones.

  Args:
    stored: Stored weights.
    model: the model.
    partial: keeps the model's own weights where no name and shape match; without names, all weights must fit.

  Returns:
    A list of what was not taken, and why.

  Raises:
    InputError: something does not fit, unless `partial` allows it.
  """
  if stored.names is None:
    try:
      interop.from_trax(stored.arrays, model)
    except InputError as error:
      raise InputError(f'{stored.where} does not fit the model: {error}') from error
    return []
  leaves, tree = jax.tree.flatten(model.weights)
  wanted, found = weight_names.names(model), dict(zip(stored.names, stored.arrays))
  wrong = [f'{name} is missing' for name in wanted if name not in found]
  wrong += [f'{name} is {_size(found[name])} and the model wants {_size(leaf)}'
            for name, leaf in zip(wanted, leaves) if name in found and found[name].shape != leaf.shape]
  wrong += [f'{name} is none of the model\'s' for name in stored.names if name not in wanted]
  if wrong and not partial:
    raise InputError(f'{stored.where} does not fit the model: {listed(wrong)}')
  new = [jnp.asarray(found[name], leaf.dtype) if name in found and found[name].shape == leaf.shape else leaf
         for name, leaf in zip(wanted, leaves)]
  model.weights = jax.tree.unflatten(tree, new)
  return wrong


def listed(wrong):
  """Returns the first items of a list, and the number of the others, as text."""
  more = f'; and {len(wrong) - _SHOWN} more' if len(wrong) > _SHOWN else ''
  return '; '.join(wrong[:_SHOWN]) + more


def _digest(named, described):
  """Returns the SHA-256 checksum of all arrays and metadata, in hexadecimal digits."""
  digest = hashlib.sha256(repr(sorted(described.items())).encode())
  for name, array in sorted(named.items()):
    digest.update(f'{name} {array.dtype} {array.shape}'.encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def _size(array):
  return ' x '.join(map(str, array.shape)) or 'a number'
