"""Wraps a language model as a Trax layer, with input checks, two halves, and a state in mode 'predict'.

Letters: B batch, L tokens, V vocabulary, D model width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from trax.layers import base
import trax.layers as tl
from trax.shapes import ShapeDtype

from trax_hourglass.layers import scan
from trax_hourglass.layers import trax_random
from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError


class LanguageModel(tl.Serial):
  """Checks tokens and applies a Serial: (B, L) -> (B, L, V); the last two layers map vectors to float32 logits."""

  def __init__(self, spec, vocab_size, length_multiple, *layers, count_groups=None):
    super().__init__(*layers, name='Hourglass')
    self._decodes, self._max_length = spec.decodes, spec.max_length
    self._to_vectors, self._to_logits = tl.Serial(*layers[:-2]), tl.Serial(*layers[-2:])
    self._vocab_size = vocab_size
    self._length_multiple = length_multiple
    self._count_groups = count_groups
    self._states = {}  # Shapes of the state in mode 'predict' by batch size.

  @property
  def vocab_size(self):
    """Returns V."""
    return self._vocab_size

  @property
  def count_groups(self):
    """Returns a function of tokens (B, L), see boundaries.count; None for groups of a fixed size."""
    return self._count_groups

  @property
  def length_multiple(self):
    """Returns the deepest total shorten factor, in tokens; inputs are padded to a multiple of this."""
    return self._length_multiple

  @property
  def max_length(self):
    """Returns the capacity in tokens per sequence in mode 'predict'; None in other modes, which take any length."""
    return self._max_length if self._decodes else None

  @property
  def state_bytes(self):
    """Returns the size of the state in bytes; for mode 'predict' see the formula at `Hourglass`."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))

  @property
  def state(self):
    """Returns the state; in mode 'predict', the caches. Setting a state with too many tokens raises InputError.

    Trax's `Accelerate` sets the state after a compiled call, so its user gets an error instead of NaN.
    """
    return super().state

  @state.setter
  def state(self, state):
    if self._decodes:
      self._check_room(state, 0)
    tl.Serial.state.fset(self, state)

  def init(self, input_signature, rng=None, use_cache=False):
    tokens = self._check(input_signature)
    with trax_random.on_host():
      weights, state = super().init(input_signature, rng, use_cache)
    if self._decodes:
      self._states[tokens.shape[0]] = jax.tree.map(lambda x: ShapeDtype(x.shape, x.dtype), state)
    return weights, state

  def pure_fn(self, x, weights, state, rng, use_cache=False):
    tokens = self._check(x)
    if self._decodes:
      self._check_batch(state, tokens.shape[0])
      self._check_room(state, tokens.shape[1])
    kept = self.weights, self.state, self._rng
    try:
      with trax_random.cheap_splits():
        return super().pure_fn(x, weights, state, rng, use_cache)
    except Exception:  # Trax leaves the call's arguments in the layers, and these may be traced.
      self.weights, self._rng = kept[0], kept[2]
      tl.Serial.state.fset(self, kept[1])
      raise

  def vectors(self, tokens, weights, state, rng):
    """Returns the input of `logits`, (B, L, D), and the new state; arguments and dropout masks are as in `pure_fn`."""
    self._check(tokens)
    with trax_random.cheap_splits():  # The first keys are the same, however many are split.
      vectors, new_state = self._to_vectors.pure_fn(tokens, weights[:-2], state[:-2], rng)
    return vectors, new_state + state[-2:]

  def logits(self, vectors, weights):
    """Returns logits (..., V), float32, of vectors (..., D); weights are the whole model's."""
    return self._to_logits.pure_fn(vectors, weights[-2:], ((), ()), None)[0]

  def start(self, batch):
    """Returns the state of mode 'predict' before the first call, for a batch of that size; the model's own stays."""
    if batch not in self._states:
      kept = self.weights, self.state
      scan.initialised_shapes(lambda: self.init(ShapeDtype((batch, 1), np.int32)))
      self.weights, self.state = kept
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._states[batch])

  def n_tokens(self, state):
    """Returns the number of tokens that a state of mode 'predict' has seen, int32 ().

    `WithinLength`, the layer before the last two, holds the number.
    """
    return state[-3]

  def _check_room(self, state, n):
    """Raises InputError if n more tokens do not fit or may not come now; checks nothing in compiled code."""
    before = self.n_tokens(state)
    if isinstance(before, jax.core.Tracer) or not isinstance(before, (np.ndarray, jax.Array)):
      return
    before = int(before)
    if before < 0 or n > 1 and before:
      raise InputError(f'several tokens at once after {abs(before)}: only the first call takes several; begin a new '
                       'sequence with the state that init gave, or give one token a call')
    if before + n > self._max_length:
      raise InputError(f'{before + n} tokens are more than max_length {self._max_length}: build the model with a '
                       'larger Hourglass.max_length, or begin a new sequence with the state that init gave')

  def _check_batch(self, state, batch):
    """Raises InputError unless a state is for `batch` sequences, the first axis of all its larger arrays."""
    found = next((leaf.shape[0] for leaf in jax.tree.leaves(state) if len(leaf.shape) > 2), batch)
    if found != batch:
      raise InputError(f'the tokens are of {batch} sequences and the state of {found}: initialise the model for '
                       f'{batch}, or give it the state that start({batch}) returns')

  def _check(self, inputs):
    """Returns the tokens; raises InputError for errors that layers would miss or report as their own shape errors."""
    tokens = inputs[0] if isinstance(inputs, (list, tuple)) else inputs  # Trax may pass a whole batch.
    shape = tuple(tokens.shape)
    if len(shape) != 2 or 0 in shape or not np.issubdtype(tokens.dtype, np.integer):
      raise InputError(f'tokens have shape {shape} and type {tokens.dtype}: give whole numbers of shape '
                       '(batch, length), both at least 1')
    if isinstance(tokens, (np.ndarray, jax.Array)) and not isinstance(tokens, jax.core.Tracer):
      checks.check_vocabulary(tokens, self._vocab_size)
    return tokens


class WithinLength(base.Layer):
  """Counts the tokens of all calls and returns NaN beyond the capacity: (vecs (B, n, D), tokens) -> vecs.

  Compiled code cannot raise an error, and wrong finite numbers would go unnoticed. State: tokens so far, int32. A later
  call with several tokens is invalid and returns NaN; the state becomes the negated count of tokens before that call.
  """

  def __init__(self, max_length):
    super().__init__(n_in=2, name=f'Within_{max_length}')
    self._max_length = max_length

  def init_weights_and_state(self, _):
    self.state = jnp.zeros((), jnp.int32)

  def forward(self, inputs):
    vecs, tokens = inputs
    before, n = self.state, tokens.shape[1]
    fits = before + n <= self._max_length
    if n > 1:
      fits &= before == 0
    self.state = jnp.where(before == 0, n, -jnp.abs(before)) if n > 1 else before + n
    return jnp.where(fits, vecs, jnp.nan).astype(vecs.dtype)
