"""The Hourglass language model, built by recursion over the levels of its hierarchy (paper, Algorithm 1).

Letters: B batch, L tokens, V vocabulary, K shorten factor, D model width.
"""

import jax
import jax.numpy as jnp
import numpy as np
import trax.layers as tl

from trax_hourglass import blocks
from trax_hourglass import hierarchy as hierarchy_lib
from trax_hourglass import host_random
from trax_hourglass import keys
from trax_hourglass import resampling
from trax_hourglass.attention_layers import CausalRelativeAttention
from trax_hourglass.attention_layers import RelativeBiases
from trax_hourglass.spec import BlockSpec


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
              recompute='elementwise',
              mode='train'):
  """Returns the model: tokens (B, L) -> logits (B, L, V); any L >= 1, output i sees tokens < i.

  Defaults are the paper's best for text. Weights are float32.

  Args:
    vocab_size: V.
    hierarchy: layers and total shorten factors, for example '2@1 8@3 2@1'; see hierarchy.py.
    d_model: D, even and a multiple of n_heads.
    d_ff: width inside feed-forward layers.
    n_heads: attention heads.
    dropout: share of activations and attention weights dropped in training.
    dropout_shared_axes: axes of (B, L, D) activations along which all elements share one dropout mask, or None.
    ff_activation: function returning the activation layer of feed-forward layers.
    vanilla_attention: plug-in for the attention of token-level layers (factor 1); see blocks.Stack.
    shortened_attention: plug-in for the attention of all deeper layers.
    shortening: plug-in that shortens by K; see resampling.py.
    upsampling: plug-in that brings the length back.
    recompute: 'none', 'elementwise' or 'blocks', what the backward pass makes again to save memory; see recompute.py.
    mode: 'train' or 'eval' (no dropout).

  Raises:
    ValueError: an argument out of its range, or a hierarchy that makes no sense.
  """
  levels = hierarchy_lib.parse(hierarchy)
  if not isinstance(vocab_size, int) or vocab_size < 1:
    raise ValueError(f'vocab_size is {vocab_size!r}: give the number of different tokens')
  spec = BlockSpec(d_model, d_ff, n_heads, dropout, dropout_shared_axes, ff_activation, recompute, mode,
                   RelativeBiases(d_model, max(1, n_heads)))

  def stack(level, n_blocks):
    attention = vanilla_attention if level.total_factor == 1 else shortened_attention
    return blocks.Stack(spec, n_blocks, level.total_factor, attention)

  def from_level(level, *deeper):
    """Returns layers that map this level's vectors to themselves, through all deeper levels."""
    if not deeper:
      return [stack(level, level.n_before)]                        # vecs
    resampler = (spec, deeper[0].shorten_factor, level.total_factor)
    return [
        stack(level, level.n_before),                              # vecs
        _valley(deeper[0].shorten_factor, shortening(*resampler), from_level(*deeper), upsampling(*resampler)),
        stack(level, level.n_after),                               # vecs
    ]

  return LanguageModel(
      vocab_size,
      levels[-1].total_factor,
      tl.Dup(),                                                    # tokens, tokens
      _pad_tokens(levels),                                         # padded tokens, tokens
      tl.ShiftRight(),                                             # padded tokens, tokens
      tl.Embedding(vocab_size, d_model),                           # vecs, tokens
      blocks.Dropout(spec),                                        # vecs, tokens
      *from_level(*levels),                                        # vecs, tokens
      tl.Fn('Crop', lambda vecs, tokens: vecs[:, :tokens.shape[1]]),  # vecs
      tl.Dense(vocab_size),                                        # logits
      tl.Fn('ToFloat32', lambda logits: logits.astype(jnp.float32)),  # logits
  )


def _valley(shorten_factor, shorten, deeper, upsample):
  """Shortens, goes through the deeper levels, comes back and adds: (B, L, D) -> (B, L, D).

  The shift by K - 1 is the smallest that is causal: coarse vector i is used at positions iK .. iK + K - 1, each of which
  may know vectors up to its own, so i may hold nothing after position iK.
  """
  return tl.Serial(
      tl.Dup(),                                                    # vecs, residual
      tl.ShiftRight(shorten_factor - 1),                           # vecs, residual
      shorten,                                                     # coarse, residual
      deeper,                                                      # coarse, residual
      tl.Select([0, 1, 1]) if upsample.n_in == 2 else [],          # coarse, residual, residual
      upsample,                                                    # vecs, residual
      blocks.LayerNorm(),                                              # vecs, residual
      tl.Add(),                                                    # vecs
      name=f'Valley_{shorten_factor}',
  )


def _pad_tokens(levels):
  """Pads tokens (B, L) on the right with zeros to a length that every level divides; causality hides them."""
  def pad(tokens):
    missing = hierarchy_lib.padded_length(levels, tokens.shape[1]) - tokens.shape[1]
    return jnp.pad(tokens, ((0, 0), (0, missing)))
  return tl.Fn(f'PadToMultipleOf_{levels[-1].total_factor}', pad)


class LanguageModel(tl.Serial):
  """A Serial that checks its tokens, (B, L) -> (B, L, V), and whose last two layers turn vectors to float32 logits."""

  def __init__(self, vocab_size, length_multiple, *layers):
    super().__init__(*layers, name='Hourglass')
    self._to_vectors, self._to_logits = tl.Serial(*layers[:-2]), tl.Serial(*layers[-2:])
    self._vocab_size = vocab_size
    self._length_multiple = length_multiple

  @property
  def vocab_size(self):
    """V."""
    return self._vocab_size

  @property
  def length_multiple(self):
    """What inputs are padded to a multiple of: the deepest total shorten factor, in tokens."""
    return self._length_multiple

  def init(self, input_signature, rng=None, use_cache=False):
    self._check(input_signature)
    with host_random.on_host():
      return super().init(input_signature, rng, use_cache)

  def pure_fn(self, x, weights, state, rng, use_cache=False):
    self._check(x)
    with keys.cheap_splits():
      return super().pure_fn(x, weights, state, rng, use_cache)

  def vectors(self, tokens, weights, state, rng):
    """Returns what `logits` takes, (B, L, D), and the new state; arguments as `pure_fn`'s, the same dropout masks."""
    self._check(tokens)
    with keys.cheap_splits():  # They begin alike however many keys are split off.
      vectors, new_state = self._to_vectors.pure_fn(tokens, weights[:-2], state[:-2], rng)
    return vectors, new_state + state[-2:]

  def logits(self, vectors, weights):
    """Returns logits (..., V), float32, of vectors (..., D); weights are the whole model's."""
    return self._to_logits.pure_fn(vectors, weights[-2:], ((), ()), None)[0]

  def _check(self, inputs):
    """Raises ValueError for what no layer below would report, or only as a shape error of its own."""
    tokens = inputs[0] if isinstance(inputs, (list, tuple)) else inputs  # Trax may hand over a whole batch.
    shape = tuple(tokens.shape)
    if len(shape) != 2 or 0 in shape or not np.issubdtype(tokens.dtype, np.integer):
      raise ValueError(f'tokens have shape {shape} and type {tokens.dtype}: give whole numbers of shape '
                       '(batch, length), both at least 1')
    if isinstance(tokens, (np.ndarray, jax.Array)) and not isinstance(tokens, jax.core.Tracer):
      check_vocabulary(tokens, self._vocab_size)


def check_vocabulary(tokens, vocab_size):
  """Raises ValueError if a token is outside 0 .. vocab_size - 1; `Embedding` would silently take the nearest."""
  low, high = int(tokens.min()), int(tokens.max())
  if low < 0 or high >= vocab_size:
    raise ValueError(f'token {low if low < 0 else high} is outside the vocabulary 0 .. {vocab_size - 1}: '
                     'raise vocab_size or check the data')
