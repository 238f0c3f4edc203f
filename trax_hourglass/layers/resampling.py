"""Provides shortening and upsampling (paper sections 2.2 and 2.3) as plug-ins by the contract in plugins.py.

Letters: B batch, L vectors of the finer level, K shorten factor from the finer to the coarser level, D model width.
`tokens_per_vector` is the total factor of the finer level.
"""

import jax.numpy as jnp
import trax.layers as tl

from trax_hourglass.layers import blocks
from trax_hourglass.layers import core
from trax_hourglass.layers import remade
from trax_hourglass.layers.attention import RelativeAttention
from trax_hourglass.layers.core import Dense
from trax_hourglass.layers.core import PositionalDropout
from trax_hourglass.layers.group_decoding import Expanded
from trax_hourglass.layers.plugins import check_plug_ins
from trax_hourglass.layers.plugins import make_shortening
from trax_hourglass.layers.plugins import make_upsampling
from trax_hourglass.layers.plugins import decodes
from trax_hourglass.runtime.errors import InputError


@decodes
@tl.assert_shape('bld->bsd')
def ShortenByAverage(spec, shorten_factor, tokens_per_vector):
  """Averages each group of K vectors: (B, L, D) -> (B, L/K, D).

  Args:
    spec: the model's BlockSpec.
    shorten_factor: K.
    tokens_per_vector: total factor of the finer level.
  """
  del spec, tokens_per_vector
  return tl.Fn(f'Average_{shorten_factor}', lambda x: _groups(x, shorten_factor).mean(axis=2))


@decodes
@tl.assert_shape('bld->bsd')
def ShortenByLinear(spec, shorten_factor, tokens_per_vector):
  """Maps each group's K D numbers linearly to D: (B, L, D) -> (B, L/K, D).

  Args:
    spec: the model's BlockSpec.
    shorten_factor: K.
    tokens_per_vector: total factor of the finer level.
  """
  del tokens_per_vector
  return tl.Serial(
      tl.Fn(f'Concatenate_{shorten_factor}', lambda x: x.reshape(x.shape[0], -1, shorten_factor * x.shape[2])),
      Dense(spec.d_model),
      PositionalDropout(spec.dropout, mode=spec.mode),
      name='ShortenByLinear',
  )


@decodes
@tl.assert_shape('bld->bsd')
def ShortenByAttention(spec, shorten_factor, tokens_per_vector, query=ShortenByAverage):
  """Computes S(x) + Attention(Q = S(x), K = V = x), then feed-forward: (B, L, D) -> (B, L/K, D).

  This shortening is the paper's best. Each coarse vector attends to all finer ones of its own and earlier groups.

  Args:
    spec: the model's BlockSpec.
    shorten_factor: K.
    tokens_per_vector: total factor of the finer level.
    query: S, a shortening that computes the queries.
  """
  check_plug_ins(query=query)
  queries = make_shortening(spec.without_dropout(), 'ShortenByAttention.query', query, shorten_factor,
                            tokens_per_vector)
  return _resampling(
      spec,
      core.LayerNorm(),                                                     # fine
      tl.Dup(),                                                             # fine, fine
      queries,                                                              # coarse, fine
      core.LayerNorm(),                                                     # coarse, fine
      _attend(spec, tokens_per_vector, keys_per_group=shorten_factor),      # coarse
      name='ShortenByAttention',
  )


@decodes
@tl.assert_shape('bsd->bld')
def UpsampleByRepeat(spec, shorten_factor, tokens_per_vector):
  """Repeats each coarse vector K times: (B, L/K, D) -> (B, L, D).

  Args:
    spec: the model's BlockSpec.
    shorten_factor: K.
    tokens_per_vector: total factor of the finer level.
  """
  del spec, tokens_per_vector
  return tl.Fn(f'Repeat_{shorten_factor}', lambda x: jnp.repeat(x, shorten_factor, axis=1))


@decodes
@tl.assert_shape('bsd->bld')
def UpsampleByLinear(spec, shorten_factor, tokens_per_vector):
  """Applies one D x D map per position in the group: (B, L/K, D) -> (B, L, D).

  Args:
    spec: the model's BlockSpec.
    shorten_factor: K.
    tokens_per_vector: total factor of the finer level.
  """
  del tokens_per_vector
  return tl.Serial(
      Dense(shorten_factor * spec.d_model),
      PositionalDropout(spec.dropout, mode=spec.mode),
      tl.Fn(f'Split_{shorten_factor}', lambda x: x.reshape(x.shape[0], -1, x.shape[2] // shorten_factor)),
      name='UpsampleByLinear',
  )


@decodes
@tl.assert_shape('bsd->bld')
def UpsampleByNothing(spec, shorten_factor, tokens_per_vector):
  """Returns zeros: (B, L/K, D) -> (B, L, D). As `added` in attention upsampling, zeros leave x alone as the query.

  Args:
    spec: the model's BlockSpec.
    shorten_factor: K.
    tokens_per_vector: total factor of the finer level.
  """
  del spec, tokens_per_vector
  return tl.Fn('Zeros', lambda x: jnp.zeros((x.shape[0], x.shape[1] * shorten_factor, x.shape[2]), x.dtype))


@decodes
@tl.assert_shape('bsd,bld->bld')
def UpsampleByAttention(spec, shorten_factor, tokens_per_vector, added=UpsampleByLinear, distances_in='vectors'):
  """Computes U + Attention(Q = U, K = V = x'), then feed-forward: (x' (B, L/K, D), x (B, L, D)) -> (B, L, D).

  U is x + added(x'). Each finer position attends to the coarse vectors of its own and earlier groups.

  Args:
    spec: the model's BlockSpec.
    shorten_factor: K.
    tokens_per_vector: total factor of the finer level.
    added: the upsampling of x' that is normalised and added to x for the queries; UpsampleByNothing for U = x.
    distances_in: unit of relative distances: 'vectors' of the finer level, as in the authors' code, or 'tokens', as
      elsewhere in the model. The two differ only where levels nest.

  Raises:
    InputError: `distances_in` is neither of these.
  """
  units = {'vectors': 1, 'tokens': tokens_per_vector}
  if distances_in not in units:
    raise InputError(f"distances_in is {distances_in!r}: choose 'vectors' or 'tokens'")
  check_plug_ins(added=added)
  added = make_upsampling(spec.without_dropout(), 'UpsampleByAttention.added', added, shorten_factor,
                          tokens_per_vector, n_in=(1,))
  return _resampling(
      spec,
      core.LayerNorm(),                                                          # coarse, residual
      tl.Select([0, 1, 0, 1]),                                                   # coarse, residual, coarse, residual
      Expanded(spec, shorten_factor, added),                                     # fine, coarse, residual
      core.LayerNorm(),                                                          # fine, coarse, residual
      tl.Select([0, 2, 1]),                                                      # fine, residual, coarse
      tl.Add(),                                                                  # fine, coarse
      _attend(spec, tokens_per_vector, queries_per_group=shorten_factor, unit=units[distances_in]),  # fine
      name='UpsampleByAttention',
  )


def _resampling(spec, *sublayers, name):
  """Returns the layers in series; in training they rematerialize like a block of a stack."""
  if spec.mode != 'train' or spec.recompute == 'none':
    return tl.Serial(*sublayers, name=name)
  return remade.Remade(*sublayers, recompute=spec.recompute, name=name)


def _attend(spec, tokens_per_vector, **geometry):
  """Returns attention and feed-forward with their residuals: (queries (B, Q, D), keys (B, K, D)) -> (B, Q, D)."""
  return [
      blocks.WithBiases(spec, n_inputs=2),                                        # queries, keys, biases
      tl.Residual(RelativeAttention(spec, tokens_per_vector, **geometry), blocks.Dropout(spec)),  # queries
      blocks.FeedForward(spec),                                                   # queries
  ]


def _groups(x, size):
  return x.reshape(x.shape[0], -1, size, x.shape[2])
