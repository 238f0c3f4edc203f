"""Holds the settings that all layers of a model share, as one value that every plug-in receives."""

import dataclasses
from typing import Any, Callable

from trax_hourglass.ops import attention
from trax_hourglass.ops import dropout as dropout_lib
from trax_hourglass.ops import remat as recompute_lib
from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError

MODES = ('train', 'eval', 'predict')


@dataclasses.dataclass(frozen=True)
class BlockSpec:
  """Holds widths, dropout, mode and other settings of a model's blocks.

  Attributes:
    d_model: width of activations between blocks.
    d_ff: width inside feed-forward layers.
    n_heads: attention heads; each is d_model / n_heads wide.
    dropout: fraction of activations and attention weights dropped in mode 'train'.
    dropout_shared_axes: axes of (B, L, D) activations that share one dropout mask, or None.
    ff_activation: function returning the activation layer of feed-forward layers.
    recompute: rematerialization policy, see remat.py.
    mode: 'train', 'eval', or 'predict' for decoding with caches.
    max_length: capacity of the caches in tokens; for mode 'predict' only.
    relative_biases: the layer () -> ((H, E), (H, E)) whose two biases the relative attention layers share.
    attention_form: implementation of attention, see ops/attention.py; None for the platform's default.
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
  attention_form: str | None = None

  def __post_init__(self):
    checks.check_sizes(d_model=self.d_model, d_ff=self.d_ff, n_heads=self.n_heads, max_length=self.max_length)
    if self.d_model % 2:
      raise InputError(f'd_model is {self.d_model}: relative positions need an even width (half sines, half cosines)')
    if self.d_model % self.n_heads:
      raise InputError(f'd_model {self.d_model} does not divide among {self.n_heads} heads: '
                       f'{self.d_model % self.n_heads} would be left over')
    dropout_lib.validate_rate(self.dropout)
    axes = self.dropout_shared_axes
    if axes is not None and not (isinstance(axes, (tuple, list)) and set(axes) <= {-3, -2, -1, 0, 1, 2}):
      raise InputError(f'dropout_shared_axes is {axes!r}: give axes of (batch, length, width), such as (1,), or None')
    if self.recompute not in recompute_lib.CHOICES:
      raise InputError(f'recompute is {self.recompute!r}: choose one of {", ".join(map(repr, recompute_lib.CHOICES))}')
    if self.attention_form not in (None, *attention.FORMS, *attention.DELETED):
      raise InputError(f'attention_form is {self.attention_form!r}: choose one of '
                       f'{", ".join(map(repr, attention.FORMS))}')
    if self.mode not in MODES:
      raise InputError(f'mode is {self.mode!r}: choose one of {", ".join(map(repr, MODES))}')

  @property
  def decodes(self):
    """Returns whether layers have caches for later calls."""
    return self.mode == 'predict'

  def capacity(self, tokens_per_vector):
    """Returns the largest number of vectors of a level, counting an incomplete last one.

    Args:
      tokens_per_vector: total factor of the level.
    """
    return -(-self.max_length // tokens_per_vector)

  def without_dropout(self):
    """Returns a copy with dropout 0."""
    return dataclasses.replace(self, dropout=0.0)
