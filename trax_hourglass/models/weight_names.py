"""Names a model's weights by the layers that hold them, such as 'stack/scanned/relative_attention/query/w'.

A name gives a weight's role, not the number of layers: models of different depths share the names of equal parts. The
second and later layers of a kind within another layer have a number, 'dense_2'.
"""

import collections
import re

import jax

from trax_hourglass.layers.scan import Scanned

_COMBINE_ONLY = ('Serial', 'Branch', 'Parallel', 'Residual', 'OncePer')
_OF_PAIRS = {'LayerNorm': ('scale', 'bias'), 'RelativeBiases': ('content', 'position')}
_RELATIVE = 'position', 'query', 'key', 'value', 'output'
_PROJECTIONS = {'RelativeAttention': _RELATIVE, 'LocalAttention': _RELATIVE, 'RotaryAttention': _RELATIVE[1:]}


def names(model):
  """Returns the names of an initialised model's weights, in the order of `jax.tree.leaves(weights)`."""
  if not model.sublayers:
    return list(_names(model, model.weights, '', collections.Counter()))
  return list(_of_sublayers(model, model.weights, '', collections.Counter()))


def _of_sublayers(layer, weights, scope, counts):
  for sublayer, of_sublayer in zip(layer.sublayers, weights, strict=True):
    yield from _names(sublayer, of_sublayer, scope, counts)


def _names(layer, weights, scope, counts):
  """Yields the names of a layer's weights.

  Args:
    layer: the layer.
    weights: its weights.
    scope: prefix of the names.
    counts: Counter of the labels already used in the scope.
  """
  kind = re.sub(r'_\d.*', '', layer.name)
  if not jax.tree.leaves(weights):  # The layer has none, or another layer holds them.
    return
  if kind not in _COMBINE_ONLY:
    label = re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', kind).lower()
    counts[label] += 1
    scope = f'{scope}/{label}' if counts[label] == 1 else f'{scope}/{label}_{counts[label]}'
    counts = collections.Counter()
  if isinstance(layer, Scanned):
    yield from _names(layer.block, weights, scope, counts)
  elif layer.sublayers:
    yield from _of_sublayers(layer, weights, scope, counts)
  else:
    for path, _ in jax.tree_util.tree_flatten_with_path(weights)[0]:
      yield '/'.join([scope.lstrip('/'), *_within(kind, weights, path)])


def _within(kind, weights, path):
  """Returns the words for a path within one layer's weights."""
  words = [str(getattr(key, 'idx', getattr(key, 'key', key))) for key in path]
  if kind in _PROJECTIONS and len(words) == 2:
    return [_PROJECTIONS[kind][int(words[0])], 'wb'[int(words[1])]]
  if len(words) == 1 and len(jax.tree.leaves(weights)) == 2:
    return [_OF_PAIRS.get(kind, ('w', 'b'))[int(words[0])]]
  return words
