"""Builds the Hourglass language model by recursion over the levels of its hierarchy (paper, Algorithm 1).

Letters: B batch, L tokens, V vocabulary, K shorten factor, D model width.
"""

import functools

import jax.numpy as jnp
import trax.layers as tl

from trax_hourglass.layers import blocks
from trax_hourglass.layers import boundaries as boundaries_lib
from trax_hourglass.layers import boundary_groups
from trax_hourglass.layers import core
from trax_hourglass.layers import factor_dropout
from trax_hourglass.layers import resampling
from trax_hourglass.layers.attention import CausalRelativeAttention
from trax_hourglass.layers.core import Dense
from trax_hourglass.layers.core import Embedding
from trax_hourglass.layers.group_decoding import Expanded
from trax_hourglass.layers.group_decoding import Shortened
from trax_hourglass.layers.plugins import check_plug_ins
from trax_hourglass.layers.plugins import make_shortening
from trax_hourglass.layers.plugins import make_upsampling
from trax_hourglass.layers import skips
from trax_hourglass.layers.spec import BlockSpec
from trax_hourglass.layers import widths
from trax_hourglass.models import hierarchy as hierarchy_lib
from trax_hourglass.models.language_model import LanguageModel
from trax_hourglass.models.language_model import WithinLength
from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError


def Hourglass(vocab_size=256,
              hierarchy='2@1 4@3 2@1',
              d_model=512,
              d_ff=2048,
              n_heads=8,
              dropout=0.1,
              dropout_shared_axes=None,
              ff_activation=tl.FastGelu,
              vanilla_attention=CausalRelativeAttention,
              shortened_attention=CausalRelativeAttention,
              shortening=resampling.ShortenByAttention,
              upsampling=resampling.UpsampleByAttention,
              attention_form=None,
              recompute='products',
              mode='train',
              max_length=2048,
              skip='identity',
              boundaries=None):
  """Returns the model: tokens (B, L) -> logits (B, L, V); any L >= 1, output i sees tokens < i.

  Defaults are the paper's best for text. Weights are float32.

  In mode 'predict' the model is called with the beginning of a sequence and then with one token at a time, as in
  `trax.supervised.decoding`. The model does not shift: input 0 is the start token, 0, and input i is token i - 1.
  Output i is for token i, so the logits of both modes are the same row by row. With `boundaries` that holds as long as
  there are slots for all groups: L / K in other modes, max_length / K in this one. The state keeps what earlier calls
  computed, for the batch size of the initialisation. Before the first call of a new sequence, set `state` to the value
  that `init` returned. Let N = max_length, and let numbers have s bytes (4). A level of factor f has n(f) = ceil(N / f)
  vectors. The state takes

      n_before + n_after layers at factor f        (2 B + 1) n(f) D s each, rotary attention 2 B n(f) D s, attention to
                                                   a window of W at most (2 B + 1) W D s
      shortening from f to K f by attention        (2 B + 1) K n(K f) D s
      upsampling from K f to f by attention        (2 B + K) n(K f) D s
      open and current groups, below factor f      B K D s, and B K D s for an upsampling of x' or as `added`

  and 4 bytes for each counter. `state_bytes` gives the size for a model.

  Args:
    vocab_size: V.
    hierarchy: layers and total shorten factors, for example '2@1 8@3 2@1'; see hierarchy.py. With sets of factors, as
      in '2@1 8@2|3 2@1', each call in mode 'train' draws one alternative (factor_dropout.py); other modes take the
      first.
    d_model: D, even and a multiple of n_heads; or a tuple with a width per level, top level first.
    d_ff: width inside feed-forward layers; a number keeps its ratio to each level's width; or a tuple.
    n_heads: attention heads; a number is the top level's, and heads are equally wide at all levels; or a tuple.
    dropout: fraction of activations and attention weights dropped in training.
    dropout_shared_axes: axes of (B, L, D) activations along which all elements share one dropout mask, or None.
    ff_activation: function returning the activation layer of feed-forward layers.
    vanilla_attention: plug-in for the attention of token-level layers (factor 1); see blocks.Stack.
    shortened_attention: plug-in for the attention of all deeper layers.
    shortening: plug-in that shortens by K; see resampling.py.
    upsampling: plug-in that restores the length.
    attention_form: None for the platform's default, or 'tiles', 'tpu' or 'cudnn'; see ops/attention.py.
    recompute: rematerialization policy, 'none', 'elementwise', 'products' or 'blocks', which saves memory in the
      backward pass; see remat.py.
    mode: 'train', 'eval' (no dropout) or 'predict' (one token at a time, with caches).
    max_length: in mode 'predict', the capacity in tokens per sequence.
    skip: map of the finer vectors before the coarser ones are added: 'identity', as in the paper, 'scaled' by a
      learned scalar, or 'linear', a map initially 0; see skips.py.
    boundaries: rule that ends groups, such as EndOfWord, for ShortenAtBoundaries and UpsampleFromBoundaries; see
      boundaries.py. The factor K of a level then sets the number of slots for groups, L / K.

  Raises:
    InputError: an argument is out of range, the hierarchy is invalid, or the hierarchy has sets of factors but weights
      of the resampling depend on the factor.
  """
  check_plug_ins(shortening=shortening, upsampling=upsampling, vanilla_attention=vanilla_attention,
                 shortened_attention=shortened_attention, ff_activation=ff_activation)
  alternatives = [hierarchy_lib.parse(one) for one in hierarchy_lib.alternatives(hierarchy)]
  _check_boundaries(boundaries, shortening, upsampling, hierarchy, alternatives)
  if not checks.is_whole(vocab_size) or vocab_size < 1:
    raise InputError(f'vocab_size is {vocab_size!r}: give the number of different tokens')
  specs = widths.specs(
      BlockSpec(2, 2, 1, dropout, dropout_shared_axes, ff_activation, recompute, mode, max_length, None,
                attention_form), len(alternatives[0]), d_model, d_ff, n_heads)
  spec = specs[0]
  if len(alternatives) > 1:
    factor_dropout.check_same_weights(specs, hierarchy, alternatives, shortening, upsampling)
  if mode != 'train':
    alternatives = alternatives[:1]

  def stack(spec, level, n_blocks):
    attention = vanilla_attention if level.total_factor == 1 else shortened_attention
    return blocks.Stack(spec, n_blocks, level.total_factor, attention)

  def from_level(*alternatives):
    """Returns the layers of a level and all deeper levels, with one valley per alternative."""
    level, *deeper = alternatives[0]
    spec = specs[-1 - len(deeper)]
    if not deeper:
      return [stack(spec, level, level.n_before)]                  # vecs
    valleys = [valley(spec, *levels) for levels in alternatives]
    factors = [levels[-1].total_factor for levels in alternatives]
    return [
        stack(spec, level, level.n_before),                        # vecs
        factor_dropout.DrawnValley(valleys, factors) if len(valleys) > 1 else valleys[0],  # vecs
        stack(spec, level, level.n_after),                         # vecs
    ]

  def valley(spec, level, *deeper):
    factors = deeper[0].shorten_factor, level.total_factor
    below = specs[-len(deeper)]
    inside = [*widths.changed(spec, below), *from_level(deeper), *widths.changed(below, spec)]
    of_skip = skips.layers(skip, spec.d_model)
    if boundaries is not None:
      return _valley_at_boundaries(factors[0], boundary_groups.AtBoundaries(
          spec, factors[0], boundaries, shortening(spec, *factors), inside, upsampling(spec, *factors)), of_skip)
    return _valley(spec, factors[0], make_shortening(spec, 'Hourglass.shortening', shortening, *factors), inside,
                   make_upsampling(spec, 'Hourglass.upsampling', upsampling, *factors), of_skip)

  return LanguageModel(
      spec,
      vocab_size,
      alternatives[0][-1].total_factor,
      tl.Dup(),                                                    # tokens, tokens
      _pad_tokens(spec, alternatives),                             # padded tokens, tokens
      tl.ShiftRight(mode=mode),                                    # padded tokens, tokens
      tl.Dup() if boundaries is not None else [],                  # padded tokens, (those of the boundaries,) tokens
      Embedding(vocab_size, spec.d_model),                            # vecs, tokens
      blocks.Dropout(spec),                                        # vecs, tokens
      *from_level(*alternatives),                                  # vecs, tokens
      _crop(spec),                                                 # vecs
      Dense(vocab_size),                                           # logits
      tl.Fn('ToFloat32', lambda logits: logits.astype(jnp.float32)),  # logits
      count_groups=boundaries and functools.partial(
          boundaries_lib.count, boundaries, alternatives[0][-1].total_factor),
  )


def _valley(spec, shorten_factor, shorten, deeper, upsample, skip):
  """Shortens, applies the deeper levels, upsamples and adds the residual: (B, L, D) -> (B, L, D).

  The shift by K - 1 is the smallest causal one. Coarse vector i is used at positions iK .. iK + K - 1, each of which
  may see vectors up to its own. Coarse vector i may therefore hold nothing after position iK.
  """
  return core.Scope(
      tl.Dup(),                                                    # vecs, residual
      Shortened(spec, shorten_factor, shorten, *deeper),           # coarse, residual
      tl.Select([0, 1, 1]),                                        # coarse, residual, residual
      upsample if upsample.n_in == 2 else Expanded(spec, shorten_factor, upsample),  # vecs, residual
      core.LayerNorm(),                                            # vecs, residual
      tl.Parallel(None, tl.Serial(*skip)) if skip else [],         # vecs, residual
      tl.Add(),                                                    # vecs
      name=f'Valley_{shorten_factor}',
  )


def _valley_at_boundaries(shorten_factor, groups, skip):
  """Applies a valley whose groups end at boundaries of the tokens: (B, L, D), tokens (B, L) -> (B, L, D)."""
  return core.Scope(
      tl.Select([0, 1, 0]),                                        # vecs, tokens, residual
      groups,                                                      # vecs, residual
      core.LayerNorm(),                                            # vecs, residual
      tl.Parallel(None, tl.Serial(*skip)) if skip else [],         # vecs, residual
      tl.Add(),                                                    # vecs
      name=f'Valley_{shorten_factor}',
  )


def _check_boundaries(boundaries, shortening, upsampling, hierarchy, alternatives):
  """Raises InputError where a rule, resampling and hierarchy do not fit together."""
  of = lambda plug_in: getattr(getattr(plug_in, 'func', plug_in), 'at_boundaries', False)
  if boundaries is None and not of(shortening) and not of(upsampling):
    return
  if boundaries is None or not callable(boundaries):
    raise InputError(f'boundaries is {boundaries!r}: set a rule for where groups end, such as Hourglass.boundaries = '
                     '@EndOfWord')
  if not of(shortening) or not of(upsampling):
    raise InputError('boundaries are set with a resampling of fixed groups: set Hourglass.shortening = '
                     '@ShortenAtBoundaries and Hourglass.upsampling = @UpsampleFromBoundaries')
  if len(alternatives) > 1 or len(alternatives[0]) != 2:
    raise InputError(f'hierarchy is {hierarchy!r}: boundaries group tokens, expected one shortening by one factor, '
                     "such as '2@1 4@5 2@1'")


def _pad_tokens(spec, alternatives):
  """Pads tokens (B, L) on the right with zeros to a length that every factor divides; causality hides the padding."""
  levels, *others = alternatives
  def pad(tokens):
    missing = hierarchy_lib.padded_length(levels, tokens.shape[1]) - tokens.shape[1]
    return jnp.pad(tokens, ((0, 0), (0, missing)))
  if spec.decodes or others:  # Incomplete groups wait when decoding; with several alternatives each pads by itself.
    return tl.Fn('Unpadded', lambda tokens: tokens)
  return tl.Fn(f'PadToMultipleOf_{levels[-1].total_factor}', pad)


def _crop(spec):
  """Cuts off the padding: (vecs (B, padded length, D), tokens (B, L)) -> (B, L, D)."""
  if spec.decodes:
    return WithinLength(spec.max_length)
  return tl.Fn('Crop', lambda vecs, tokens: vecs[:, :tokens.shape[1]])
