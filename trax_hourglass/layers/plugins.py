"""The contract of plug-ins: an attention, a shortening or an upsampling is a function that returns a Trax layer.

    attention(spec, tokens_per_vector)                     x (B, L, D) -> (B, L, D)
                                                           or (x, context bias, location bias) -> (B, L, D)
    shortening(spec, shorten_factor, tokens_per_vector)    x (B, L, D) -> x' (B, L/K, D)
    upsampling(spec, shorten_factor, tokens_per_vector)    (x' (B, L/K, D), x (B, L, D)) -> (B, L, D)
                                                           or x' alone -> (B, L, D)

`spec` is the model's BlockSpec (layers/spec.py), `shorten_factor` is K, from the finer to the coarser level, and
`tokens_per_vector` is the total factor of the level, for resampling of the finer level. A plug-in is registered with
gin by one line, `gin.external_configurable(MyShortening, module='my_project')`; further arguments can be bound there. A
shortening never sees the future: the model shifts its input right by K - 1. Modes 'train' and 'eval' ask for nothing
else; for mode 'predict' see `decodes`.

Letters: B batch, L vectors of the finer level, K shorten factor, D model width.
"""

import functools


def decodes(plug_in):
  """Decorates a plug-in whose layers work in mode 'predict' too; models of that mode take no others.

  There a layer is called with a prompt of any length, or one step at a time, and keeps what later calls need in its
  state. What comes one at a time:

      attention     a vector of the level
      shortening    a group of K shifted vectors, so one that sees its own group only needs no state
      upsampling    the coarse vector that serves now and the finer vector, (x', x); or, if it maps x' alone to K
                    vectors, each coarse vector once, and it needs no state
  """
  @functools.wraps(plug_in)
  def marked(*args, **kwargs):
    layer = plug_in(*args, **kwargs)
    layer._decodes = True  # pylint: disable=protected-access
    return layer
  return marked


def check_decodes(spec, layer, role):
  """Returns a plug-in's layer, and raises ValueError in mode 'predict' unless its plug-in is marked by `decodes`."""
  if spec.decodes and not getattr(layer, '_decodes', False):
    raise ValueError(f"{role} {layer.name or type(layer).__name__} has no mode 'predict': choose another, or teach it "
                     'to decode and mark the function that makes it with trax_hourglass.decodes')
  return layer


def check_plug_ins(**plug_ins):
  """Raises ValueError for a plug-in, by its argument's name, that is no function."""
  for name, plug_in in plug_ins.items():
    if not callable(plug_in):
      raise ValueError(f'{name} is {plug_in!r}: give a reference to a function that returns a layer, such as '
                       '@ShortenByLinear')
