"""Counts the levels, parameters, FLOPs and bytes of a configuration from shapes alone, without reading data.

Letters: B batch, L tokens.
"""

import collections
import dataclasses
import re

import jax
import numpy as np
from trax import shapes

from trax_hourglass.layers import core
from trax_hourglass.layers import scan
from trax_hourglass.models import flops
from trax_hourglass.runtime.errors import InputError

_STACK = re.compile(r'Stack_(\d+)@(\d+)')


@dataclasses.dataclass(frozen=True)
class Level:
  """Holds one level of the hierarchy.

  Attributes:
    factor: tokens per vector.
    length: vectors of a sequence of L tokens, padding included.
    d_model: model width.
    n_layers: numbers of layers before and after the next deeper level; one number for the deepest level.
    n_parameters: parameters of the level's layers.
    flops_share: share of a step's FLOPs in the level's layers; None if FLOPs cannot be counted.
  """
  factor: int
  length: int
  d_model: int
  n_layers: tuple[int, ...]
  n_parameters: int
  flops_share: float | None


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Holds a configuration's sizes; the names are those of `plan --json`.

  Attributes:
    levels: the Levels, from the token level down; empty for a model without levels.
    batch_size, length: B, L.
    n_parameters: number of trained parameters.
    resampling_parameters, resampling_flops_share: parameters and share of FLOPs of shortening and upsampling.
    padded_length: L padded to a multiple of all levels' factors.
    flops_per_token: training FLOPs per token, forward and backward, see flops.py; None if FLOPs cannot be counted.
    step_flops: FLOPs of a step of B L tokens; None if FLOPs cannot be counted.
    n_steps, n_tokens: steps and tokens of the run.
    tokens_per_parameter: tokens of the run per trained parameter.
    weight_bytes: bytes of the weights; the gradients take as many.
    slot_bytes: bytes of the optimizer's slots.
    checkpoint_bytes: bytes of the arrays of a checkpoint.
    cache_bytes: bytes of the float32 state of mode 'predict' for one sequence of `Hourglass.max_length`; None for a
      model without mode 'predict'.
  """
  levels: tuple[Level, ...]
  batch_size: int
  length: int
  n_parameters: int
  resampling_parameters: int
  resampling_flops_share: float | None
  padded_length: int
  flops_per_token: float | None
  step_flops: int | None
  n_steps: int
  n_tokens: int
  tokens_per_parameter: float
  weight_bytes: int
  slot_bytes: int
  checkpoint_bytes: int
  cache_bytes: int | None


def sizes(settings, program):
  """Returns the Sizes of a configuration.

  Args:
    settings: training.settings.Settings.
    program: its step_program.StepProgram.
  """
  model, batch_size, length = program.model, settings.batch_size, settings.length
  parameters = _parameters(model)
  try:
    operations = flops.by_scope(model, batch_size, length)
  except InputError:
    operations = None
  step_flops = None if operations is None else 3 * sum(operations.values())
  share = lambda chosen: None if operations is None else sum(map(operations.get, chosen)) / sum(operations.values())
  of_resampling = lambda counts: [scope for scope in counts if scope.rpartition('/')[2].startswith('Valley')]
  n_parameters, n_tokens = sum(parameters.values()), settings.n_steps * batch_size * length
  multiple = getattr(model, 'length_multiple', 1)
  padded = -(-length // multiple) * multiple
  levels = []
  for depth, (factor, n_layers, width) in sorted(_stacks(model).items()):
    of_level = lambda counts, depth=depth: [scope for scope in counts if _depth(scope) == depth]
    levels.append(Level(factor, padded // factor, width, tuple(n_layers), sum(
        parameters[scope] for scope in of_level(parameters)), share(of_level(operations or ()))))
  return Sizes(
      levels=tuple(levels), batch_size=batch_size, length=length, n_parameters=n_parameters,
      resampling_parameters=sum(parameters[scope] for scope in of_resampling(parameters)),
      resampling_flops_share=share(of_resampling(operations or ())), padded_length=padded,
      flops_per_token=step_flops and step_flops / (batch_size * length), step_flops=step_flops,
      n_steps=settings.n_steps, n_tokens=n_tokens, tokens_per_parameter=n_tokens / max(1, n_parameters),
      weight_bytes=n_bytes(program.weights), slot_bytes=n_bytes(program.slots),
      checkpoint_bytes=n_bytes((program.weights, program.state, program.slots)), cache_bytes=_cache_bytes(settings))


def n_bytes(tree):
  """Returns the bytes of a tree of arrays or shapes."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _cache_bytes(settings):
  try:
    model = settings.model(mode='predict')
    return n_bytes(scan.initialised_shapes(lambda: model.init(shapes.ShapeDtype((1, 1), np.int32))[1]))
  except InputError:  # It has no mode 'predict'.
    return None


def _parameters(model):
  """Returns {scope: number of parameters}, with scopes as in `flops.by_scope`."""
  counts = collections.Counter()
  for scope, layer, weights in _scopes(model, model.weights, ''):
    if not isinstance(layer, core.Scope):
      counts[scope] += sum(leaf.size for leaf in jax.tree.leaves(weights))
  return counts


def _stacks(model):
  """Returns {depth: (factor, [layers of each stack, in forward order], width)}."""
  found = {}
  for scope, layer, weights in _scopes(model, model.weights, ''):
    if isinstance(layer, core.Scope) and (stack := _STACK.fullmatch(layer.name)):
      width = jax.tree.leaves(weights[-1])[0].shape[-1]  # A stack's last layer is a LayerNorm.
      found.setdefault(_depth(scope), (int(stack[2]), [], width))[1].append(int(stack[1]))
  return found


def _scopes(layer, weights, scope):
  """Yields (scope, layer, weights) of each Scope and each layer without sublayers."""
  if isinstance(layer, core.Scope):
    scope = f'{scope}/{layer.name}'.lstrip('/')
    yield scope, layer, weights
  if layer.sublayers and isinstance(weights, (tuple, list)):
    for sublayer, of_sublayer in zip(layer.sublayers, weights):
      yield from _scopes(sublayer, of_sublayer, scope)
  elif not isinstance(layer, core.Scope):
    yield scope, layer, weights


def _depth(scope):
  """Returns the number of valleys around a stack, or None for other scopes; alternative factors are one valley."""
  *valleys, last = [part for part in scope.split('/') if part.startswith(('Valley_', 'Stack_'))] or ['']
  return len(valleys) if _STACK.fullmatch(last) else None


def readable(n):
  """Returns a number of bytes with a unit, '1.50 GiB'."""
  for unit in ('bytes', 'KiB', 'MiB', 'GiB'):
    if abs(n) < 1024 or unit == 'GiB':
      return f'{n:,.0f} {unit}' if unit == 'bytes' else f'{n:,.2f} {unit}'
    n /= 1024
