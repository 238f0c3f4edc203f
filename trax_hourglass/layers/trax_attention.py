"""Trax's own attention layers as plug-ins of an Hourglass.

They are of two kinds, told apart by how many arrays they take: x -> x, causal by themselves, such as `CausalAttention`
or LSH attention; and (q, k, v, mask) -> (x, mask), `AttentionQKV`, which is handed a causal mask.

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

_KINDS = ((1, 1), (4, 2))  # (arrays taken, arrays given), in the order above.


class PerSequence(base.Layer):
  """An attention layer of Trax applied to each sequence alone: (B, L, D) -> (B, L, D).

  Trax's efficient attentions keep a state for each sequence of a batch, hashes and the key they were drawn with, which
  would bind a model to the batch that it was initialised with. Here the state is made for one sequence each time, from
  this layer's key, and not kept. In mode 'eval' all sequences have the same, so that none depends on its neighbours.
  """

  def __init__(self, make_layer, length_multiple, mode):
    """Creates the layer.

    Args:
      make_layer: function of no argument that returns Trax's layer.
      length_multiple: L is filled up at its end to a multiple of it; causal attention does not look there.
      mode: 'train' or 'eval'.

    Raises:
      InputError: a layer of another kind than those above, or one that does not take every multiple of vectors.
    """
    self._make_layer, self._layer = make_layer, make_layer()
    super().__init__(name=f'PerSequence_{self._layer.name}', sublayers_to_print=[self._layer])
    self._length_multiple, self._mode = length_multiple, mode
    if (self._layer.n_in, self._layer.n_out) not in _KINDS:
      raise InputError(f'{self._layer.name} takes {self._layer.n_in} arrays and gives {self._layer.n_out}: plug in a '
                       'layer x -> x or (q, k, v, mask) -> (x, mask)')

  def check(self, d_model):
    """Raises InputError if the layer does not take every multiple of vectors; here, since inside a model no one reads
    it.
    """
    n_vectors = 7 * self._length_multiple
    try:
      trial = PerSequence(self._make_layer, self._length_multiple, self._mode)
      jax.eval_shape(lambda: trial.init(shapes.ShapeDtype((1, n_vectors, d_model))))
    except (base.LayerError, TypeError, ValueError, AssertionError) as error:
      if errors.users_frames(errors.cause(error)):
        raise  # Of an attention of the user's own.
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
    # Another layer of the same make: initialising the one whose weights are in use would replace them.
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
  """Any attention layer of Trax in place of ours: (B, L, D) -> (B, L, D).

  It must be causal, by itself or through the mask it is handed, and know of positions itself if it is to know of any.
  LSH attention lets no vector see a later one; but which earlier ones it sees depends on how all were sorted into
  chunks, later ones among them.

  Args:
    spec: the model's BlockSpec; of it, the layer's arguments of Trax's usual names are taken.
    tokens_per_vector: total shorten factor of the level; Trax's layers count in vectors.
    layer: a class or function of Trax, its further arguments bound by gin.
    length_multiple: L is filled up to a multiple of it, for layers that cut their vectors into chunks.

  Raises:
    InputError: a layer that does not map vectors to vectors, does not take every multiple of them, or mode 'predict'.
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
  """Returns the names of what makes a layer; a class of layers has a metaclass that hides them."""
  while isinstance(layer, functools.partial):
    layer = layer.func
  return inspect.signature(layer.__init__ if inspect.isclass(layer) else layer).parameters
