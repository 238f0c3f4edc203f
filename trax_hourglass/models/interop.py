"""Converts weights to and from the authors' implementation, `trax.models.HourglassLM`.

Trax lists weights in the order of its layers, one block after the other. Ours are the same arrays with two exceptions.
Equal blocks are stacked. The two relative biases are a layer, while Trax lists them where its first attention uses
them.
"""

import dataclasses

import jax
import numpy as np
from trax import shapes
from trax.layers import base

from trax_hourglass.layers.attention import LocalAttention
from trax_hourglass.layers.attention import RelativeAttention
from trax_hourglass.layers.attention import RelativeBiases
from trax_hourglass.layers.attention import RotaryAttention
from trax_hourglass.layers.boundary_groups import AtBoundaries
from trax_hourglass.layers.scan import Scanned
from trax_hourglass.layers.widths import ToWidth
from trax_hourglass.models import trax_checkpoint
from trax_hourglass.runtime.errors import InputError

_BEFORE_BIASES = 8  # Arrays of an attention that Trax lists before the biases: w, b of position, query, key, value.


@dataclasses.dataclass(frozen=True)
class _Slot:
  """Locates one of Trax's arrays in our weights.

  Attributes:
    path: indices into nested tuples of weights.
    block: index of the block in a stack, or None.
    is_bias: whether it is a relative bias, (1, H, 1, E) in Trax and (H, E) here.
  """
  path: tuple[int, ...]
  block: int | None
  is_bias: bool = False


def from_trax(source, model):
  """Sets the weights of our model from the authors', or from a file in our own order.

  Args:
    source: an initialised `trax.models.HourglassLM`, the path of its `.pkl.gz` checkpoint or of one of ours, or the
      list of arrays from `trax_checkpoint.read_weights`.
    model: a `Hourglass` with the same options; initialised here if necessary.

  Returns:
    The model.

  Raises:
    InputError: the weights do not fit the model, or the file is not a readable checkpoint.
  """
  if isinstance(source, base.Layer):
    arrays = [np.asarray(w) for w in base.flatten_weights_and_state(source.weights, source.state)[0]]
    if not arrays:
      raise InputError('the source model has no weights yet: call its init first')
  else:
    arrays = source if isinstance(source, list) else trax_checkpoint.read_weights(source)
  _ensure_initialised(model)
  own, tree = jax.tree.flatten(model.weights)
  if [array.shape for array in arrays] == [leaf.shape for leaf in own]:
    model.weights = jax.tree.unflatten(tree, [jax.numpy.asarray(a, leaf.dtype) for a, leaf in zip(arrays, own)])
    return model
  leaves, index, tree = _flatten(model.weights)
  slots = list(_trax_order(model, model.weights))
  if len(arrays) != len(slots):
    raise InputError(f'the source has {len(arrays)} weights; the model has {len(own)} in its own order and '
                     f'{len(slots)} in the authors\': their hierarchies or layer types differ')

  parts = {}
  for number, (slot, array) in enumerate(zip(slots, arrays)):
    leaf = index[slot.path]
    shape = leaves[leaf].shape if slot.block is None else leaves[leaf].shape[1:]
    if slot.is_bias and array.shape == (1, shape[0], 1, *shape[1:]):
      array = array.reshape(shape)
    if array.shape != shape:
      raise InputError(f'weight {number} of the source has shape {array.shape} and the model wants {shape}: their '
                       'widths or layer types differ')
    parts.setdefault(leaf, []).append(array)
  for leaf, arrays in parts.items():
    value = arrays[0] if leaves[leaf].ndim == arrays[0].ndim else np.stack(arrays)
    leaves[leaf] = jax.numpy.asarray(value, leaves[leaf].dtype)
  model.weights = jax.tree.unflatten(tree, leaves)
  return model


def to_trax(model, path=None):
  """Returns our model's weights as `trax.models.HourglassLM` lists them, and optionally writes a checkpoint.

  Args:
    model: an initialised `Hourglass`.
    path: a `.pkl.gz` file to write, or None.

  Raises:
    InputError: the model is not initialised, or the path has another ending.
  """
  if not jax.tree.leaves(model.weights):
    raise InputError('the model has no weights yet: call its init first')
  leaves, index, _ = _flatten(model.weights)
  arrays = []
  for slot in _trax_order(model, model.weights):
    array = np.asarray(leaves[index[slot.path]])
    array = array if slot.block is None else array[slot.block]
    arrays.append(array[None, :, None, :] if slot.is_bias else array)
  if path is not None:
    trax_checkpoint.write_weights(path, arrays, input_shape=(1, model.length_multiple))
  return arrays


def _ensure_initialised(model):
  if not jax.tree.leaves(model.weights):
    model.init(shapes.ShapeDtype((1, 1), np.int32))


def _flatten(weights):
  """Returns the leaves, the index of each leaf by path, and the tree structure."""
  with_paths, tree = jax.tree_util.tree_flatten_with_path(weights)
  index = {tuple(key.idx for key in path): number for number, (path, _) in enumerate(with_paths)}
  return [leaf for _, leaf in with_paths], index, tree


def _trax_order(layer, weights, path=(), block=None, biases=None):
  """Yields the slot of each of Trax's weights, in Trax's order.

  Args:
    layer: one of our layers.
    weights: its weights, or a cache marker if the layer is shared and was visited before.
    path: its position in the model's weights.
    block: index of the current block of a stack, or None.
    biases: list that carries the path of the biases from their own layer to where Trax lists them.
  """
  biases = [] if biases is None else biases
  if isinstance(layer, ToWidth):
    raise InputError('levels of the model have unequal widths, and trax.models.HourglassLM has one width: give d_model '
                     'as a number')
  if isinstance(layer, AtBoundaries):
    raise InputError('groups of the model end at boundaries, and trax.models.HourglassLM has fixed groups: leave '
                     'Hourglass.boundaries out')
  if isinstance(layer, (LocalAttention, RotaryAttention)):
    raise InputError(f'the model has {type(layer).__name__}, which trax.models.HourglassLM has not: choose '
                     '@CausalRelativeAttention or @TraxAttention')
  if getattr(layer, '_is_skip', False):
    raise InputError("the model's residuals have weights, and those of trax.models.HourglassLM have none: set "
                     "Hourglass.skip = 'identity'")
  if isinstance(layer, RelativeBiases):
    if not isinstance(weights, dict):
      biases.append(path)
  elif isinstance(layer, Scanned):
    for number in range(layer.n_blocks):
      yield from _trax_order(layer.block, weights, path, number, biases)
  elif isinstance(layer, RelativeAttention):
    slots = list(_leaf_slots(weights, path, block))
    yield from slots[:_BEFORE_BIASES]
    for biases_path in biases:
      yield from (_Slot((*biases_path, i), None, is_bias=True) for i in range(2))
    biases.clear()
    yield from slots[_BEFORE_BIASES:]
  elif layer.sublayers:
    for i, sublayer in enumerate(layer.sublayers):
      yield from _trax_order(sublayer, weights[i], (*path, i), block, biases)
  else:
    yield from _leaf_slots(weights, path, block)


def _leaf_slots(weights, path, block):
  for keys, _ in jax.tree_util.tree_flatten_with_path(weights)[0]:
    yield _Slot((*path, *(key.idx for key in keys)), block)
