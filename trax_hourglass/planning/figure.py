"""Draws a hierarchy like the paper's Figure 2: levels with their lengths, shortening, upsampling and residuals."""

import pathlib

from trax_hourglass.runtime import atomic_files
from trax_hourglass.runtime.errors import InputError

_ENDINGS = '.svg', '.png'
_COLORS = '#9ecae1', '#a1d99b', '#fdae6b', '#bcbddc', '#fc9272'
# In units of the axes: width of a stack, gap between two stacks, height of the token level.
_WIDTH, _GAP, _TALLEST = 1.0, 0.75, 4.0
_TICKS = 24  # Vectors drawn for the longest level.


def check_name(path):
  """Raises InputError unless the path has a figure's suffix."""
  if pathlib.Path(path).suffix.lower() not in _ENDINGS:
    raise InputError(f'--figure is {str(path)!r}; expected a name that ends with {" or ".join(_ENDINGS)}')


def write(path, levels):
  """Draws the levels from left to right, in the order of the forward pass.

  Args:
    path: file to write, of a name that `check_name` accepts.
    levels: the sizes.Levels, from the token level down.

  Raises:
    InputError: the model has no levels.
  """
  if not levels:
    raise InputError('--figure draws a hierarchy, and fit.model has none: leave --figure out')
  import matplotlib  # The import takes a second.  pylint: disable=g-import-not-at-top
  from matplotlib import figure  # pylint: disable=g-import-not-at-top
  stacks = [(level, depth, level.n_layers[0]) for depth, level in enumerate(levels)]
  stacks += [(level, depth, level.n_layers[-1]) for depth, level in reversed(list(enumerate(levels[:-1])))]
  canvas = figure.Figure(figsize=(1.5 * len(stacks) + 2.6, 4), dpi=110, layout='constrained')
  axes = canvas.add_subplot()
  axes.axis('off')
  places = [number * (_WIDTH + _GAP) for number in range(len(stacks))]
  heights = [_TALLEST * level.length / levels[0].length for level, _, _ in stacks]
  for left, height, (level, depth, n_layers) in zip(places, heights, stacks):
    _stack(axes, left, height, level, depth, n_layers, levels[0].length)
  for number in range(len(stacks) - 1):
    (level, depth, _), (other, other_depth, _) = stacks[number:number + 2]
    by = max(level.factor, other.factor) // min(level.factor, other.factor)
    _arrow(axes, places[number] + _WIDTH, places[number + 1],
           f'{"shorten" if other_depth > depth else "upsample"}\nby {by}')
  for depth in range(len(levels) - 1):  # From before each shortening to after its upsampling.
    _residual(axes, places[depth] + .9 * _WIDTH, places[-1 - depth] + .1 * _WIDTH, heights[depth] / 2)
  _arrow(axes, -_GAP, 0, 'tokens,\nshifted\nright by 1')
  _arrow(axes, places[-1] + _WIDTH, places[-1] + _WIDTH + _GAP, 'logits')
  axes.set(xlim=(-_GAP - .1, places[-1] + _WIDTH + _GAP + .1), ylim=(-_TALLEST / 2 - .9, _TALLEST / 2 + 1))
  path = pathlib.Path(path).expanduser()
  ending = path.suffix[1:].lower()
  with atomic_files.unfinished(path) as unfinished:
    with matplotlib.rc_context({'svg.hashsalt': 'trax_hourglass'}):  # Makes equal figures equal files.
      canvas.savefig(unfinished, format=ending, metadata={'Date': None} if ending == 'svg' else None)


def _stack(axes, left, height, level, depth, n_layers, longest):
  """Draws a stack as a box with height proportional to its sequence length and lines between some vectors."""
  from matplotlib import patches  # pylint: disable=g-import-not-at-top
  axes.add_patch(patches.Rectangle((left, -height / 2), _WIDTH, height, facecolor=_COLORS[depth % len(_COLORS)],
                                   edgecolor='black', linewidth=.8))
  n_drawn = max(1, round(_TICKS * level.length / longest))
  for number in range(1, n_drawn):
    y = -height / 2 + height * number / n_drawn
    axes.plot([left, left + _WIDTH], [y, y], color='white', linewidth=.6)
  axes.text(left + _WIDTH / 2, 0, f'{n_layers} layer{"s" * (n_layers != 1)}\n@{level.factor}', ha='center', va='center',
            fontsize=9, bbox={'facecolor': 'white', 'alpha': .75, 'edgecolor': 'none', 'pad': 1})
  axes.text(left + _WIDTH / 2, -height / 2 - .12, f'{level.length:,} x {level.d_model:,}', ha='center', va='top',
            fontsize=8)


def _arrow(axes, start, end, text):
  """Draws an arrow between two stacks, with a text above it."""
  axes.annotate('', (end, 0), (start, 0), arrowprops={'arrowstyle': '->', 'shrinkA': 1, 'shrinkB': 1})
  axes.text((start + end) / 2, .1, text, ha='center', va='bottom', fontsize=7.5)


def _residual(axes, start, end, height):
  """Draws the residual connection that bypasses the lower levels and is added after them."""
  axes.annotate('', (end, height), (start, height), arrowprops={
      'arrowstyle': '->', 'connectionstyle': 'arc,angleA=90,angleB=90,armA=22,armB=22,rad=8', 'linestyle': '--'})
  axes.text((start + end) / 2, height + .42, 'residual', ha='center', va='bottom', fontsize=7.5)
