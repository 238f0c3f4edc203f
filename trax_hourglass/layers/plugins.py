"""Defines the contract of plug-ins: an attention, shortening or upsampling is a function that returns a Trax layer.

    attention(spec, tokens_per_vector)                     x (B, L, D) -> (B, L, D)
                                                           or (x, context bias, location bias) -> (B, L, D)
    shortening(spec, shorten_factor, tokens_per_vector)    x (B, L, D) -> x' (B, L/K, D)
    upsampling(spec, shorten_factor, tokens_per_vector)    (x' (B, L/K, D), x (B, L, D)) -> (B, L, D)
                                                           or x' alone -> (B, L, D)

`spec` is the model's BlockSpec (layers/spec.py). `shorten_factor` is K, from the finer to the coarser level.
`tokens_per_vector` is the total factor of the level; for resampling, of the finer level. One line registers a plug-in
with gin: `gin.external_configurable(MyShortening, module='my_project')`. Gin can bind further arguments. A shortening
never sees the future, because the model shifts the input right by K - 1. Modes 'train' and 'eval' require nothing else;
for mode 'predict' see `decodes`.

Letters: B batch, L vectors of the finer level, K shorten factor, D model width.
"""

import functools
import inspect

import trax.layers as tl

from trax_hourglass.runtime.errors import InputError


def decodes(plug_in):
  """Marks a plug-in whose layers also work in mode 'predict'; models of that mode take no others.

  In mode 'predict' a layer is called with a prompt of any length, or one step at a time. Its state keeps what later
  calls need. The input of one step:

      attention     a vector of the level
      shortening    a group of K shifted vectors; a layer that sees only its own group needs no state
      upsampling    the current coarse vector and the finer vector, (x', x); a layer that maps x' alone to K vectors
                    gets each coarse vector once and needs no state
  """
  @functools.wraps(plug_in)
  def marked(*args, **kwargs):
    layer = plug_in(*args, **kwargs)
    if isinstance(layer, tl.Layer):
      layer._decodes = True  # pylint: disable=protected-access
    return layer
  marked.__signature__ = inspect.signature(plug_in)  # Shows gin the defaults, which a run's config records.
  return marked


def make_attention(spec, plug_in, tokens_per_vector):
  """Returns an attention plug-in's layer for a level; raises InputError as `_checked` does."""
  parameter = 'Hourglass.vanilla_attention' if tokens_per_vector == 1 else 'Hourglass.shortened_attention'
  return _checked(spec, parameter, plug_in, plug_in(spec, tokens_per_vector), (1, 3), lambda x, *_: x)


def make_shortening(spec, parameter, plug_in, shorten_factor, tokens_per_vector):
  """Returns a shortening plug-in's layer; raises InputError as `_checked` does.

  Args:
    spec: the model's BlockSpec.
    parameter: gin name of the parameter that `plug_in` is bound to, for messages.
    plug_in: the plug-in.
    shorten_factor: K.
    tokens_per_vector: total factor of the finer level.
  """
  layer = plug_in(spec, shorten_factor, tokens_per_vector)
  return _checked(spec, parameter, plug_in, layer, (1,), lambda x: (x[0], x[1] // shorten_factor, x[2]))


def make_upsampling(spec, parameter, plug_in, shorten_factor, tokens_per_vector, n_in=(1, 2)):
  """Returns an upsampling plug-in's layer, whose number of inputs is in `n_in`; see `make_shortening`."""
  layer = plug_in(spec, shorten_factor, tokens_per_vector)
  return _checked(spec, parameter, plug_in, layer, n_in, lambda x, *_: (x[0], x[1] * shorten_factor, x[2]))


def _checked(spec, parameter, plug_in, layer, n_in, shape):
  """Returns a plug-in's layer, which checks its output shape against the contract when the model is traced.

  Args:
    spec: the model's BlockSpec.
    parameter: gin name of the parameter that the plug-in is bound to.
    plug_in: the plug-in.
    layer: its return value.
    n_in: the allowed numbers of inputs.
    shape: function of the inputs' shapes that returns the output's shape.

  Raises:
    InputError: `layer` is not a Trax layer or has a wrong number of inputs or outputs, or `decodes` does not mark the
      plug-in in mode 'predict'; in a call, the number or shape of outputs is wrong.
  """
  plugged = f'{parameter} = @{getattr(plug_in, "__name__", plug_in)}'
  if not isinstance(layer, tl.Layer):
    raise InputError(f'{plugged} returned {layer!r}, expected a Trax layer: return one, such as tl.Fn(...)')
  if layer.n_in not in n_in or layer.n_out != 1:
    raise InputError(f'{plugged} returned a layer of {layer.n_in} inputs and {layer.n_out} outputs, expected '
                     f'{" or ".join(map(str, n_in))} and 1')
  if spec.decodes:  # Steps have other shapes.
    if not getattr(layer, '_decodes', False):
      raise InputError(f"{plugged} has no mode 'predict': choose another, or teach it to decode and mark the function "
                       'with trax_hourglass.decodes')
    return layer
  forward = layer.forward

  def checked(inputs):
    output = forward(inputs)
    if isinstance(output, (tuple, list)):
      raise InputError(f'{plugged} returned {len(output)} arrays, expected 1')
    shapes = (inputs,) if layer.n_in == 1 else inputs
    expected = shape(*(x.shape for x in shapes))
    if getattr(output, 'shape', None) != expected:
      raise InputError(f'{plugged} returned {getattr(output, "shape", output)}, expected {expected}')
    return output

  # Trax's layers reject setting `forward`, and a wrapper layer would get other PRNG keys from the model.
  object.__setattr__(layer, 'forward', checked)
  return layer


def check_plug_ins(**plug_ins):
  """Raises InputError for a plug-in, given by its argument's name, that is not callable."""
  for name, plug_in in plug_ins.items():
    if not callable(plug_in):
      raise InputError(f'{name} is {plug_in!r}: give a reference to a function that returns a layer, such as '
                       '@ShortenByLinear')
