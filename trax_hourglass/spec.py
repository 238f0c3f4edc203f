"""What all layers of one model have in common, as one value handed to every plug-in."""

import dataclasses
from typing import Any, Callable

from trax_hourglass import dropout as dropout_lib
from trax_hourglass import recompute as recompute_lib

MODES = ('train', 'eval')


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
    recompute: what the backward pass makes again, see recompute.py.
    mode: 'train' or 'eval'.
    relative_biases: the layer () -> ((H, E), (H, E)) whose two biases all relative attention of a model shares.
  """
  d_model: int
  d_ff: int
  n_heads: int
  dropout: float
  dropout_shared_axes: tuple[int, ...] | None
  ff_activation: Callable[[], Any]
  recompute: str
  mode: str
  relative_biases: Any

  def __post_init__(self):
    for name in ('d_model', 'd_ff', 'n_heads'):
      value = getattr(self, name)
      if not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} is {value!r}: give a whole number above 0')
    if self.d_model % 2:
      raise ValueError(f'd_model is {self.d_model}: relative positions need an even width (half sines, half cosines)')
    if self.d_model % self.n_heads:
      raise ValueError(f'd_model {self.d_model} does not divide among {self.n_heads} heads: '
                       f'{self.d_model % self.n_heads} would be left over')
    dropout_lib.validate_rate(self.dropout)
    if self.recompute not in recompute_lib.CHOICES:
      raise ValueError(f'recompute is {self.recompute!r}: choose one of {", ".join(map(repr, recompute_lib.CHOICES))}')
    if self.mode not in MODES:
      raise ValueError(f'mode is {self.mode!r}: choose one of {", ".join(map(repr, MODES))}')

  def without_dropout(self):
    """Returns the same with dropout 0."""
    return dataclasses.replace(self, dropout=0.0)
