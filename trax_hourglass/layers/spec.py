"""What all layers of one model have in common, as one value handed to every plug-in."""

import dataclasses
import functools
from typing import Any, Callable

from trax_hourglass.ops import attention
from trax_hourglass.ops import dropout as dropout_lib
from trax_hourglass.ops import remat as recompute_lib
from trax_hourglass.runtime import checks

MODES = ('train', 'eval', 'predict')


@dataclasses.dataclass(frozen=True)
class BlockSpec:
  """Widths, dropout and mode of a model's blocks.

  Attributes:
    d_model: width of activations between blocks.
    d_ff: width inside feed-forward layers.
    n_heads: attention heads; each is d_model / n_heads wide.
    dropout: share of activations and attention weights dropped in mode 'train'.
    dropout_shared_axes: axes of (B, L, D) activations that share one dropout mask, or None.
    ff_activation: function returning the activation layer of feed-forward layers.
    recompute: what the backward pass makes again, see remat.py.
    mode: 'train', 'eval', or 'predict' for decoding with caches.
    max_length: tokens that caches have room for; of mode 'predict' only.
    relative_biases: the layer () -> ((H, E), (H, E)) whose two biases all relative attention of a model shares.
    attention_form: how relative and rotary attention are worked out, see attention.py.
  """
  d_model: int
  d_ff: int
  n_heads: int
  dropout: float
  dropout_shared_axes: tuple[int, ...] | None
  ff_activation: Callable[[], Any]
  recompute: str
  mode: str
  max_length: int
  relative_biases: Any
  attention_form: str = 'tiles'

  def __post_init__(self):
    checks.check_sizes(d_model=self.d_model, d_ff=self.d_ff, n_heads=self.n_heads, max_length=self.max_length)
    if self.d_model % 2:
      raise ValueError(f'd_model is {self.d_model}: relative positions need an even width (half sines, half cosines)')
    if self.d_model % self.n_heads:
      raise ValueError(f'd_model {self.d_model} does not divide among {self.n_heads} heads: '
                       f'{self.d_model % self.n_heads} would be left over')
    dropout_lib.validate_rate(self.dropout)
    axes = self.dropout_shared_axes
    if axes is not None and not (isinstance(axes, (tuple, list)) and set(axes) <= {-3, -2, -1, 0, 1, 2}):
      raise ValueError(f'dropout_shared_axes is {axes!r}: give axes of (batch, length, width), such as (1,), or None')
    if self.recompute not in recompute_lib.CHOICES:
      raise ValueError(f'recompute is {self.recompute!r}: choose one of {", ".join(map(repr, recompute_lib.CHOICES))}')
    if self.attention_form not in attention.FORMS:
      raise ValueError(f'attention_form is {self.attention_form!r}: choose one of {", ".join(map(repr, attention.FORMS))}')
    if self.mode not in MODES:
      raise ValueError(f'mode is {self.mode!r}: choose one of {", ".join(map(repr, MODES))}')

  @property
  def decodes(self):
    """Whether layers keep what later calls need."""
    return self.mode == 'predict'

  def capacity(self, tokens_per_vector):
    """Returns how many vectors of a level there can be, the last one begun counted.

    Args:
      tokens_per_vector: total factor of the level.
    """
    return -(-self.max_length // tokens_per_vector)

  def without_dropout(self):
    """Returns the same with dropout 0."""
    return dataclasses.replace(self, dropout=0.0)


def decodes(plug_in):
  """Decorates a plug-in whose layers work in mode 'predict' too; models of that mode take no others.

  There a layer is called with a prompt of any length, or one step at a time, and keeps what later calls need in its state.
  What comes one at a time:

      attention     a vector of the level
      shortening    a group of K shifted vectors, so one that sees its own group only needs no state
      upsampling    the coarse vector that serves now and the finer vector, (x', x); or, if it maps x' alone to K vectors,
                    each coarse vector once, and it needs no state
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
    raise ValueError(f"{role} {layer.name or type(layer).__name__} has no mode 'predict': choose another, or teach it to "
                     'decode and mark the function that makes it with trax_hourglass.layers.spec.decodes')
  return layer


def check_plug_ins(**plug_ins):
  """Raises ValueError for a plug-in, by its argument's name, that is no function."""
  for name, plug_in in plug_ins.items():
    if not callable(plug_in):
      raise ValueError(f'{name} is {plug_in!r}: give a reference to a function that returns a layer, such as @ShortenByLinear')
