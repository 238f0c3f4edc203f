"""The Hourglass language model, built by recursion over the levels of its hierarchy (paper, Algorithm 1).

Letters: B batch, L tokens, V vocabulary, K shorten factor, D model width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from trax.layers import base
import trax.layers as tl
from trax.shapes import ShapeDtype

from trax_hourglass.layers.attention import CausalRelativeAttention
from trax_hourglass.layers.attention import RelativeBiases
from trax_hourglass.layers import blocks
from trax_hourglass.layers import core
from trax_hourglass.layers.core import Dense
from trax_hourglass.layers.core import Embedding
from trax_hourglass.layers import factor_dropout
from trax_hourglass.layers.group_decoding import Expanded
from trax_hourglass.layers.group_decoding import Shortened
from trax_hourglass.layers.plugins import check_decodes
from trax_hourglass.layers.plugins import check_plug_ins
from trax_hourglass.layers import resampling
from trax_hourglass.layers.spec import BlockSpec
from trax_hourglass.layers import trax_random
from trax_hourglass.models import hierarchy as hierarchy_lib
from trax_hourglass.runtime import checks
from trax_hourglass.runtime.checks import check_sizes


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
              attention_form='tiles',
              recompute='products',
              mode='train',
              max_length=2048):
  """Returns the model: tokens (B, L) -> logits (B, L, V); any L >= 1, output i sees tokens < i.

  Defaults are the paper's best for text. Weights are float32.

  In mode 'predict' the model is called with the beginning of a sequence and then with one token at a time, as
  `trax.supervised.decoding` does. It does not shift: input 0 is the start token, 0, input i is token i - 1, and output i
  is for token i, so the logits of both modes are the same row by row. What it needs of earlier calls it keeps in its state,
  made for the batch that it was initialised with: before the first call of a new sequence, set `state` to what `init` gave.
  With N = max_length, numbers of s bytes (4), and n(f) = ceil(N / f) vectors in a level of factor f, that is

      n_before + n_after layers at factor f        (2 B + 1) n(f) D s each, rotary attention 2 B n(f) D s
      shortening from f to K f by attention        (2 B + 1) K n(K f) D s
      upsampling from K f to f by attention        (2 B + K) n(K f) D s
      what serves and what waits, below factor f   B K D s, and B K D s for an upsampling of x' or as `added`

  and 4 bytes for each counter. `state_bytes` tells it of a model.

  Args:
    vocab_size: V.
    hierarchy: layers and total shorten factors, for example '2@1 8@3 2@1'; see hierarchy.py. With sets of factors, as in
      '2@1 8@2|3 2@1', each call in mode 'train' draws one alternative (factor_dropout.py), and other modes take the first.
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
    attention_form: 'tiles', 'pallas' or 'cudnn', how relative and rotary attention are worked out; see attention.py.
    recompute: 'none', 'elementwise', 'products' or 'blocks', what the backward pass makes again to save memory; see
      remat.py.
    mode: 'train', 'eval' (no dropout) or 'predict' (one token at a time, with caches).
    max_length: in mode 'predict', the number of tokens of a sequence that there is room for.

  Raises:
    ValueError: an argument out of its range, a hierarchy that makes no sense, or one with sets of factors and a resampling
      whose weights depend on the factor.
  """
  check_plug_ins(shortening=shortening, upsampling=upsampling, vanilla_attention=vanilla_attention,
                 shortened_attention=shortened_attention, ff_activation=ff_activation)
  alternatives = [hierarchy_lib.parse(one) for one in hierarchy_lib.alternatives(hierarchy)]
  if not isinstance(vocab_size, int) or vocab_size < 1:
    raise ValueError(f'vocab_size is {vocab_size!r}: give the number of different tokens')
  check_sizes(d_model=d_model, n_heads=n_heads)
  spec = BlockSpec(d_model, d_ff, n_heads, dropout, dropout_shared_axes, ff_activation, recompute, mode,
                   max_length, RelativeBiases(d_model, n_heads), attention_form)
  if len(alternatives) > 1:
    factor_dropout.check_same_weights(spec, hierarchy, alternatives, shortening, upsampling)
  if mode != 'train':
    alternatives = alternatives[:1]

  def stack(level, n_blocks):
    attention = vanilla_attention if level.total_factor == 1 else shortened_attention
    return blocks.Stack(spec, n_blocks, level.total_factor, attention)

  def from_level(*alternatives):
    """Returns layers that map a level's vectors to themselves, through all deeper levels, of which there may be several."""
    level, *deeper = alternatives[0]
    if not deeper:
      return [stack(level, level.n_before)]                        # vecs
    valleys = [valley(*levels) for levels in alternatives]
    return [
        stack(level, level.n_before),                              # vecs
        valleys[0] if len(valleys) == 1 else factor_dropout.DrawnValley(valleys, [a[-1].total_factor for a in alternatives]),
        stack(level, level.n_after),                               # vecs
    ]

  def valley(level, *deeper):
    resampler = (spec, deeper[0].shorten_factor, level.total_factor)
    return _valley(spec, deeper[0].shorten_factor, check_decodes(spec, shortening(*resampler), 'shortening'),
                   from_level(deeper), check_decodes(spec, upsampling(*resampler), 'upsampling'))

  return LanguageModel(
      spec,
      vocab_size,
      alternatives[0][-1].total_factor,
      tl.Dup(),                                                    # tokens, tokens
      _pad_tokens(spec, alternatives),                             # padded tokens, tokens
      tl.ShiftRight(mode=mode),                                    # padded tokens, tokens
      Embedding(vocab_size, d_model),                              # vecs, tokens
      blocks.Dropout(spec),                                        # vecs, tokens
      *from_level(*alternatives),                                  # vecs, tokens
      _crop(spec),                                                 # vecs
      Dense(vocab_size),                                           # logits
      tl.Fn('ToFloat32', lambda logits: logits.astype(jnp.float32)),  # logits
  )


def _valley(spec, shorten_factor, shorten, deeper, upsample):
  """Shortens, goes through the deeper levels, comes back and adds: (B, L, D) -> (B, L, D).

  The shift by K - 1 is the smallest that is causal: coarse vector i is used at positions iK .. iK + K - 1, each of which
  may know vectors up to its own, so i may hold nothing after position iK.
  """
  return tl.Serial(
      tl.Dup(),                                                    # vecs, residual
      Shortened(spec, shorten_factor, shorten, *deeper),           # coarse, residual
      tl.Select([0, 1, 1]),                                        # coarse, residual, residual
      upsample if upsample.n_in == 2 else Expanded(spec, shorten_factor, upsample),  # vecs, residual
      core.LayerNorm(),                                          # vecs, residual
      tl.Add(),                                                    # vecs
      name=f'Valley_{shorten_factor}',
  )


def _pad_tokens(spec, alternatives):
  """Pads tokens (B, L) on the right with zeros to a length that every level divides; causality hides them."""
  levels, *others = alternatives
  def pad(tokens):
    missing = hierarchy_lib.padded_length(levels, tokens.shape[1]) - tokens.shape[1]
    return jnp.pad(tokens, ((0, 0), (0, missing)))
  if spec.decodes or others:  # Groups that lack vectors wait for them; of several alternatives each pads by itself.
    return tl.Fn('Unpadded', lambda tokens: tokens)
  return tl.Fn(f'PadToMultipleOf_{levels[-1].total_factor}', pad)


def _crop(spec):
  """Cuts off the padding: (vecs (B, padded length, D), tokens (B, L)) -> (B, L, D)."""
  if spec.decodes:
    return _WithinLength(spec.max_length)
  return tl.Fn('Crop', lambda vecs, tokens: vecs[:, :tokens.shape[1]])


class _WithinLength(base.Layer):
  """Counts the tokens of all calls and turns vectors into NaN where there was no room: (vecs (B, n, D), tokens) -> vecs.

  No error can be raised in compiled code, and numbers that are merely wrong would go unnoticed. State: tokens so far, int32.
  """

  def __init__(self, max_length):
    super().__init__(n_in=2, name=f'Within_{max_length}')
    self._max_length = max_length

  def init_weights_and_state(self, _):
    self.state = jnp.zeros((), jnp.int32)

  def forward(self, inputs):
    vecs, tokens = inputs
    before, n = self.state, tokens.shape[1]
    self.state = before + n
    fits = before + n <= self._max_length
    if n > 1:
      fits &= before == 0
    return jnp.where(fits, vecs, jnp.nan).astype(vecs.dtype)


class LanguageModel(tl.Serial):
  """A Serial that checks its tokens, (B, L) -> (B, L, V), and whose last two layers turn vectors to float32 logits."""

  def __init__(self, spec, vocab_size, length_multiple, *layers):
    super().__init__(*layers, name='Hourglass')
    self._decodes, self._max_length = spec.decodes, spec.max_length
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

  @property
  def max_length(self):
    """Tokens of a sequence that there is room for in mode 'predict'; None in other modes, which take any length."""
    return self._max_length if self._decodes else None

  @property
  def state_bytes(self):
    """Bytes of the state; for mode 'predict' see the formula at `Hourglass`."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))

  @property
  def state(self):
    """The state; in mode 'predict' the caches. Setting one that holds too many tokens is a ValueError.

    That is what Trax's `Accelerate` does after a compiled call, so its user gets an error and no NaN.
    """
    return super().state

  @state.setter
  def state(self, state):
    if self._decodes:
      self._check_room(state, 0)
    tl.Serial.state.fset(self, state)

  def init(self, input_signature, rng=None, use_cache=False):
    self._check(input_signature)
    with trax_random.on_host():
      return super().init(input_signature, rng, use_cache)

  def pure_fn(self, x, weights, state, rng, use_cache=False):
    tokens = self._check(x)
    if self._decodes:
      self._check_room(state, tokens.shape[1])
    with trax_random.cheap_splits():
      return super().pure_fn(x, weights, state, rng, use_cache)

  def vectors(self, tokens, weights, state, rng):
    """Returns what `logits` takes, (B, L, D), and the new state; arguments as `pure_fn`'s, the same dropout masks."""
    self._check(tokens)
    with trax_random.cheap_splits():  # They begin alike however many keys are split off.
      vectors, new_state = self._to_vectors.pure_fn(tokens, weights[:-2], state[:-2], rng)
    return vectors, new_state + state[-2:]

  def logits(self, vectors, weights):
    """Returns logits (..., V), float32, of vectors (..., D); weights are the whole model's."""
    return self._to_logits.pure_fn(vectors, weights[-2:], ((), ()), None)[0]

  def start(self, batch):
    """Returns the state of mode 'predict' before the first call, for a batch of that size; the model's own stays."""
    kept = self.weights, self.state
    shape = jax.eval_shape(lambda: self.init(ShapeDtype((batch, 1), np.int32))[1])
    self.weights, self.state = kept
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)

  def n_tokens(self, state):
    """Returns how many tokens a state of mode 'predict' has seen, int32 (); layer before the last two, see `Hourglass`."""
    return state[-3]

  def _check_room(self, state, n):
    """Raises ValueError if n more tokens do not fit or cannot come now, where it can be known: not in compiled code."""
    before = self.n_tokens(state)
    if isinstance(before, jax.core.Tracer) or not isinstance(before, (np.ndarray, jax.Array)):
      return
    before = int(before)
    if before + n > self._max_length:
      raise ValueError(f'{before + n} tokens are more than max_length {self._max_length}: build the model with a larger '
                       'Hourglass.max_length, or begin a new sequence with the state that init gave')
    if n > 1 and before:
      raise ValueError(f'{n} tokens at once after {before}: only the first call takes several; begin a new sequence '
                       'with the state that init gave, or give one token a call')

  def _check(self, inputs):
    """Returns the tokens; raises ValueError for what no layer below would report, or only as a shape error of its own."""
    tokens = inputs[0] if isinstance(inputs, (list, tuple)) else inputs  # Trax may hand over a whole batch.
    shape = tuple(tokens.shape)
    if len(shape) != 2 or 0 in shape or not np.issubdtype(tokens.dtype, np.integer):
      raise ValueError(f'tokens have shape {shape} and type {tokens.dtype}: give whole numbers of shape '
                       '(batch, length), both at least 1')
    if isinstance(tokens, (np.ndarray, jax.Array)) and not isinstance(tokens, jax.core.Tracer):
      checks.check_vocabulary(tokens, self._vocab_size)
    return tokens
