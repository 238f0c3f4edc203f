"""Adapts Trax's own attention layers as plug-ins of an Hourglass.

The number of inputs distinguishes two kinds. Layers x -> x are causal by themselves, such as `CausalAttention` or LSH
attention. Layers (q, k, v, mask) -> (x, mask), namely `AttentionQKV`, are given a causal mask.

Letters: B batch, L vectors of a level, D model width.
"""

import functools
import inspect

import gin
import jax
import jax.numpy as jnp
from trax import fastmath
from trax import shapes
from trax.layers import base

from trax_hourglass.runtime import errors
from trax_hourglass.runtime.errors import InputError

_KINDS = ((1, 1), (4, 2))  # (inputs, outputs), in the order above.


class PerSequence(base.Layer):
  """Applies an attention layer of Trax to each sequence alone: (B, L, D) -> (B, L, D).

  Trax's efficient attentions keep a state for each sequence of a batch: hashes and the key that drew them. That state
  would bind a model to the batch size of its initialisation. Here each call creates the state for one sequence, from
  this layer's key, and discards it. In mode 'eval' all sequences share one key, so that none depends on its neighbours.
  """

  def __init__(self, make_layer, length_multiple, mode):
    """Creates the layer.

    Args:
      make_layer: function without arguments that returns Trax's layer.
      length_multiple: L is padded at its end to a multiple of this; causal attention does not see the padding.
      mode: 'train' or 'eval'.

    Raises:
      InputError: the layer is of neither kind above.
    """
    self._make_layer, self._layer = make_layer, make_layer()
    super().__init__(name=f'PerSequence_{self._layer.name}', sublayers_to_print=[self._layer])
    self._length_multiple, self._mode = length_multiple, mode
    if (self._layer.n_in, self._layer.n_out) not in _KINDS:
      raise InputError(f'{self._layer.name} takes {self._layer.n_in} arrays and gives {self._layer.n_out}: plug in a '
                       'layer x -> x or (q, k, v, mask) -> (x, mask)')

  def check(self, d_model):
    """Raises InputError if the layer does not take 7 times `length_multiple` vectors, as a trial of all multiples.

    Inside a model the same error would be hard to read.
    """
    n_vectors = 7 * self._length_multiple
    try:
      trial = PerSequence(self._make_layer, self._length_multiple, self._mode)
      jax.eval_shape(lambda: trial.init(shapes.ShapeDtype((1, n_vectors, d_model))))
    except (base.LayerError, TypeError, ValueError, AssertionError) as error:
      if errors.users_frames(errors.cause(error)):
        raise  # From the user's own attention.
      cause = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
      raise InputError(f'{self._layer.name} does not take {n_vectors} vectors of width {d_model} ({cause}): set '
                       'TraxAttention.length_multiple to what its lengths must be a multiple of, such as its chunk_len'
                       ) from error

  def init_weights_and_state(self, signature):
    self.weights, _ = self._layer.init(self._inputs_signature(signature), rng=self.rng)

  def forward(self, x):
    state_rng, rng = fastmath.random.split(self.rng)
    length = x.shape[1]
    x = jnp.pad(x, ((0, 0), (0, -length % self._length_multiple), (0, 0)))
    # A second instance, because initialising the one in use would replace its weights.
    _, state = self._make_layer().init(self._inputs_signature(x), rng=state_rng)

    def attend(x, rng):
      out, _ = self._layer.pure_fn(self._inputs(x[None]), self.weights, state, rng)
      return (out[0] if self._layer.n_out > 1 else out)[0]

    if self._mode == 'train':
      out = jax.vmap(attend)(x, fastmath.random.split(rng, x.shape[0]))
    else:
      out = jax.vmap(functools.partial(attend, rng=rng))(x)
    return out[:, :length].astype(x.dtype)

  def _inputs_signature(self, x):
    length = x.shape[1] + -x.shape[1] % self._length_multiple
    inputs = jax.eval_shape(self._inputs, jax.ShapeDtypeStruct((1, length, x.shape[2]), x.dtype))
    return jax.tree.map(shapes.signature, inputs)

  def _inputs(self, x):
    if self._layer.n_in == 1:
      return x
    mask = jnp.tril(jnp.ones((1, 1, x.shape[1], x.shape[1]), bool))
    return x, x, x, mask


def TraxAttention(spec, tokens_per_vector, layer=gin.REQUIRED, length_multiple=1):
  """Returns any attention layer of Trax in place of ours: (B, L, D) -> (B, L, D).

  The layer must be causal, by itself or through the given mask. Positions, if any, must be encoded by the layer itself.
  In LSH attention no vector sees a later one. However, the earlier vectors seen depend on how all vectors, later ones
  included, were sorted into chunks.

  Args:
    spec: the model's BlockSpec, which supplies the layer's arguments with Trax's usual names.
    tokens_per_vector: total shorten factor of the level; Trax's layers count in vectors.
    layer: a class or function of Trax, whose further arguments gin binds.
    length_multiple: L is padded to a multiple of this, for layers that split vectors into chunks.

  Raises:
    InputError: the layer does not map vectors to vectors or does not take every such multiple, or the mode is
      'predict'.
  """
  del tokens_per_vector
  if spec.decodes:
    raise InputError("TraxAttention has no mode 'predict': sample from a model with CausalRelativeAttention, "
                     'CausalRotaryAttention or CausalLocalAttention')
  width = spec.d_model // spec.n_heads
  arguments = dict(d_feature=spec.d_model, d_model=spec.d_model, n_heads=spec.n_heads, d_qk=width, d_v=width,
                   causal=True, masked=False, dropout=spec.dropout, attention_dropout=spec.dropout, mode=spec.mode)
  takes = _parameters(layer)
  make_layer = functools.partial(layer, **{name: value for name, value in arguments.items() if name in takes})
  plugged = PerSequence(make_layer, length_multiple, spec.mode)
  plugged.check(spec.d_model)
  return plugged


def _parameters(layer):
  """Returns the parameters of a layer's function or class; the metaclass of layer classes hides them."""
  while isinstance(layer, functools.partial):
    layer = layer.func
  return inspect.signature(layer.__init__ if inspect.isclass(layer) else layer).parameters
