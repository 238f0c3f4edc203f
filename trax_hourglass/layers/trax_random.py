"""Replaces Trax's random numbers: initial weights are drawn by NumPy on the host, and keys are split cheaply.

Both are pure functions of Trax's PRNG keys. Initialising a Trax model runs one small JAX program for each weight shape
and traces each layer once for every combinator around it. Compiling and tracing take all the time: 15 s for a model of
6,000 parameters. NumPy's Philox generator, keyed by the same two words, needs no compilation, and each layer is traced
only once.
"""

import contextlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from trax.fastmath import jax as trax_jax
from trax.layers import base
from trax.layers import combinators

from trax_hourglass.ops import prng
from trax_hourglass.runtime.errors import InputError


@contextlib.contextmanager
def on_host():
  """Makes `trax.fastmath.random` use NumPy to split keys and draw numbers, and layers cache output signatures."""
  draws = {'random_split': _split, 'random_uniform': _uniform, 'random_normal': _normal}
  with mock.patch.dict(trax_jax.JAX_BACKEND, draws), \
       mock.patch.object(base.Layer, '_forward_abstract', _remembering(base.Layer._forward_abstract)):
    yield


def _remembering(forward_abstract):
  """Returns `Layer._forward_abstract`, cached by layer and input signature."""
  known = {}

  def remembered(layer, input_signature):
    key = layer, str(input_signature)
    if key not in known:
      known[key] = (_through if type(layer) is combinators.Serial else forward_abstract)(layer, input_signature)
    return known[key]

  return remembered


def _through(serial, stack):
  """Returns the result of `Layer._forward_abstract` for a Serial, from the cached results of its sublayers."""
  states = []
  for layer in serial.sublayers:
    outputs, state = layer._forward_abstract(combinators.inputs_from_stack(stack, layer.n_in))
    stack = combinators.outputs_onto_stack(outputs, stack, layer.n_in)
    states.append(state)
  return stack, tuple(states)


def _draw(key, shape, dtype, draw):
  """Returns draw(generator, shape) with a generator keyed by `key`, uint32 (2,), which may be traced."""
  shape = tuple(int(n) for n in shape)

  def with_key(key):
    high, low = np.asarray(key, np.uint64)
    try:
      return draw(np.random.Generator(np.random.Philox(key=high << np.uint64(32) | low)), shape).astype(dtype)
    except ValueError as error:  # The number of elements exceeds 63 bits.
      raise InputError(f'weights of shape {shape} cannot be drawn ({error}): give a smaller model') from error

  if isinstance(key, jax.core.Tracer):
    return jax.pure_callback(with_key, jax.ShapeDtypeStruct(shape, dtype), key, vmap_method='sequential')
  return with_key(key)


def _split(key, num=2):
  return _draw(key, (num, 2), np.uint32, lambda generator, shape: generator.integers(2**32, size=shape))


def _uniform(key, shape=(), dtype=jnp.float32, minval=0.0, maxval=1.0):
  unit = _draw(key, shape, dtype, lambda generator, shape: generator.random(shape, np.float32))
  return jnp.asarray(minval + unit * (maxval - minval), dtype)


def _normal(key, shape=(), dtype=jnp.float32):
  return jnp.asarray(_draw(key, shape, dtype, lambda generator, shape: generator.standard_normal(shape, np.float32)))


_key = trax_jax.JAX_BACKEND['random_get_prng']


def _key_on_host(seed):
  """Returns JAX's key of a seed, uint32 (2,), as a NumPy array, so that programs that do not use the key lack it.

  `Layer.pure_fn` reads the layer's own key to restore it later. A layer without a key creates one, from a number drawn
  when the layer was constructed. As a JAX operation, that key would make each process's program different.
  """
  return np.array([0, seed], np.uint32) if isinstance(seed, int) and 0 <= seed < 2**32 else _key(seed)


@contextlib.contextmanager
def cheap_splits():
  """Replaces `trax.fastmath.random.split` by `ops.prng.split`, and keys of seeds by NumPy arrays."""
  with mock.patch.dict(trax_jax.JAX_BACKEND, {'random_split': prng.split, 'random_get_prng': _key_on_host}):
    yield
