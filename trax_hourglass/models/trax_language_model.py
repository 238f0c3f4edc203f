"""Adapts Trax's own language models to our interface: any length, any batch size.

Letters: B batch, L tokens, V vocabulary, M number whose multiples a model takes as lengths.
"""

import gin
import jax.numpy as jnp
from trax import fastmath
from trax import shapes
from trax.layers import base

from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError


class TraxLanguageModel(base.Layer):
  """Applies a causal language model of Trax that shifts its own input: tokens (B, L) -> logits (B, L, V).

  Tokens are padded at their end to a multiple of M; a causal model does not see the padding. Each call creates new
  state, because Trax's layers bind state to the batch size and length of the initialisation. A language model that is
  trained on independent windows has nothing to remember. Weights are the model's own.
  """

  def __init__(self, mode, model=gin.REQUIRED, vocab_size=256, length_multiple=1):
    """Creates the layer.

    Args:
      mode: 'train' or 'eval'.
      model: function of vocab_size and mode, such as `trax.models.TransformerLM`; gin binds further arguments.
      vocab_size: V.
      length_multiple: M.

    Raises:
      InputError: the mode is 'predict', or vocab_size or length_multiple is below 1.
    """
    checks.check_sizes(vocab_size=vocab_size, length_multiple=length_multiple)
    if mode == 'predict':
      raise InputError("TraxLanguageModel has no mode 'predict': sample from it by trax.supervised.decoding")
    self._make = lambda: model(vocab_size=vocab_size, mode=mode)
    self._model = self._make()
    super().__init__(name='TraxLanguageModel', sublayers_to_print=[self._model])
    self._vocab_size, self._length_multiple = vocab_size, length_multiple

  @property
  def vocab_size(self):
    """Returns V."""
    return self._vocab_size

  def init_weights_and_state(self, signature):
    self.weights, _ = self._model.init(self._padded_signature(signature), rng=self.rng)

  def forward(self, inputs):
    tokens = _tokens(inputs)
    state_rng, rng = fastmath.random.split(self.rng)
    length = tokens.shape[1]
    # A second instance: initialising the one in use would replace its weights, and Trax's reversible layers run only
    # after initialisation.
    model = self._make()
    _, state = model.init(self._padded_signature(inputs), rng=state_rng)
    padded = jnp.pad(tokens, ((0, 0), (0, -length % self._length_multiple)))
    logits, _ = model.pure_fn(padded, self.weights, state, rng)
    return logits[:, :length].astype(jnp.float32)

  def _padded_signature(self, inputs):
    tokens = _tokens(inputs)
    batch, length = tokens.shape
    return shapes.ShapeDtype((batch, length + -length % self._length_multiple), tokens.dtype)


def _tokens(inputs):
  return inputs[0] if isinstance(inputs, (list, tuple)) else inputs  # Trax may pass a whole batch.
