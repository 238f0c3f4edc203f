"""Builds the paper's pre-norm decoder block and stacks of N blocks.

Letters: B batch, L vectors of a level, D model width, F feed-forward width.
"""

import trax.layers as tl

from trax_hourglass.layers.core import Dense
from trax_hourglass.layers.core import LayerNorm
from trax_hourglass.layers.core import PositionalDropout
from trax_hourglass.layers.core import Scope
from trax_hourglass.layers.plugins import make_attention
from trax_hourglass.layers.remade import GradientsAtOnce
from trax_hourglass.layers.scan import Scanned


def Dropout(spec):
  """Drops activations between layers of a block: (B, L, D) -> (B, L, D)."""
  return PositionalDropout(spec.dropout, spec.dropout_shared_axes, spec.mode)


def FeedForward(spec):
  """Returns a pre-norm feed-forward layer with its residual: (B, L, D) -> (B, L, D)."""
  return GradientsAtOnce(*tl.Residual(
      LayerNorm(),                # vecs
      Dense(spec.d_ff),           # vecs (B, L, F)
      spec.ff_activation(),       # vecs (B, L, F)
      Dropout(spec),              # vecs (B, L, F)
      Dense(spec.d_model),        # vecs
      Dropout(spec),              # vecs
  ).sublayers)


def DecoderBlock(spec, attention):
  """Returns a block: (x (B, L, D), further inputs of the attention ...) -> (B, L, D).

  Args:
    spec: the model's BlockSpec.
    attention: layer (x (B, L, D), further inputs ...) -> (B, L, D).
  """
  return tl.Serial(
      tl.Residual(
          LayerNorm(),            # vecs, ...
          attention,              # vecs
          Dropout(spec),          # vecs
      ),                          # vecs
      FeedForward(spec),          # vecs
      name='DecoderBlock',
  )


def Stack(spec, n_blocks, tokens_per_vector, attention):
  """Returns N blocks and a final LayerNorm, as one of the model's stacks: (B, L, D) -> (B, L, D).

  Args:
    spec: the model's BlockSpec.
    n_blocks: N; with 0 only the LayerNorm stays, as in Trax.
    tokens_per_vector: total shorten factor of the level.
    attention: plug-in (spec, tokens_per_vector) -> layer that maps x, or (x, context bias, location bias), to x.

  Raises:
    InputError: the attention takes or returns an unexpected number of arrays.
  """
  name = f'Stack_{n_blocks}@{tokens_per_vector}'
  if n_blocks == 0:
    return Scope(LayerNorm(), name=name)
  block = DecoderBlock(spec, make_attention(spec, attention, tokens_per_vector))
  return Scope(
      WithBiases(spec) if block.n_in == 3 else [],  # vecs, biases
      Scanned(block, n_blocks, spec.recompute, spec.decodes),  # vecs
      LayerNorm(),                                  # vecs
      name=name,
  )


def WithBiases(spec, n_inputs=1):
  """Pushes the model's shared relative biases below the top `n_inputs` arrays: (x, ...) -> (x, ..., bias, bias)."""
  return [spec.relative_biases, tl.Select([*range(2, 2 + n_inputs), 0, 1])]
