"""Computes causal attention at one rate or across two, with relative or rotary positions, in pure functions.

One geometry covers the three uses in an Hourglass. Queries and keys come in M groups. A group has `queries_per_group`
queries and `keys_per_group` keys, and one of the two numbers is always 1:

    within a level      1 query, 1 key      query i sees keys <= i
    shortening by k     1 query, k keys     coarse query i sees the fine keys of groups <= i
    upsampling by k     k queries, 1 key    fine query i sees coarse keys <= i // k

A query of group m sees the keys of groups 0 .. m. The function has three implementations, called forms:

    'tiles'     plain JAX, tiled_attention.py: all platforms, all types; default on CPU and GPU
    'tpu'       Pallas kernels, tpu_attention.py: TPU v5e and later, all types; default there
    'cudnn'     cuDNN's fused attention, cudnn_attention.py: GPU, bfloat16, no dropout of weights

Attention that a form does not support falls back to 'tiles'.

Letters: B batch, H heads, D model width, E width of a head. P queries per group, A keys per group; M groups, Q = M P
queries, K = M A keys and as many distances.
"""

import contextlib
import contextvars
import functools

import jax.numpy as jnp

from trax_hourglass.ops import cudnn_attention
from trax_hourglass.ops import local_attention as local_attention_lib
from trax_hourglass.ops import tiled_attention
from trax_hourglass.ops import wide_sums
from trax_hourglass.runtime import progress
from trax_hourglass.runtime import sharding
from trax_hourglass.runtime.errors import InputError

FORMS = ('tiles', 'tpu', 'cudnn')
DELETED = ('pallas',)  # Forms of earlier versions, which the configurations of old runs may name.
_used = contextvars.ContextVar('used', default=None)


def relative_attention(q, k, v, e, context_bias, location_bias, rate=0.0, key=None, form=None):
  """Returns the output (B, Q, H, E) of Transformer-XL's attention, before the output projection.

  A score is the content term (q + c) . k_j plus the position term (q + l) . e(r), divided by sqrt(E). Here r is the
  distance from query to key and e a projected sinusoid (arXiv 1901.02860, section 3.3; paper section 2).

  Args:
    q: queries (B, Q, H, E).
    k: keys (B, K, H, E).
    v: values (B, K, H, E).
    e: projected distances (P, K, H, E), in the order of `distances`.
    context_bias: (H, E), c.
    location_bias: (H, E), l.
    rate: dropout rate of attention weights, in [0, 1).
    key: JAX PRNG key uint32 (2,); needed if rate > 0.
    form: one of FORMS, or None for the platform's default.

  Raises:
    InputError: the lengths are not whole groups, or do not match the distances.
  """
  queries_per_group, n_keys = e.shape[:2]
  n_groups = max(1, q.shape[1] // queries_per_group)
  if n_groups * queries_per_group != q.shape[1] or n_keys != k.shape[1] or n_keys % n_groups:
    raise InputError(f'{q.shape[1]} queries and {k.shape[1]} keys are not whole groups of {queries_per_group} queries, '
                     f'or do not fit {n_keys} distances')
  taken = _taken(form, q, k, e, queries_per_group, rate)
  if taken == 'tpu':
    return _tpu_attention().attend(q, k, v, (e, context_bias, location_bias), key, queries_per_group, rate)
  content, position = (scaled(q, bias) for bias in (context_bias, location_bias))
  attend = cudnn_attention.attend if taken == 'cudnn' else tiled_attention.attend
  return attend(content, k, v, (position, e), key, queries_per_group, rate)


def rotary_attention(q, k, v, rate=0.0, key=None, form=None):
  """Returns the output (B, L, H, E) of attention within a level with rotary positions (arXiv 2104.09864).

  Args:
    q: queries (B, L, H, E), `rotated`.
    k: keys (B, L, H, E), `rotated`.
    v: values (B, L, H, E).
    rate: dropout rate of attention weights, in [0, 1).
    key: JAX PRNG key uint32 (2,); needed if rate > 0.
    form: one of FORMS, or None for the platform's default.
  """
  taken = _taken(form, q, k, None, 1, rate)
  if taken == 'tpu':
    return _tpu_attention().attend(q, k, v, None, key, 1, rate)
  attend = cudnn_attention.attend if taken == 'cudnn' else tiled_attention.attend
  return attend(q * float(q.shape[-1])**-0.5, k, v, None, key, 1, rate)


def local_attention(q, k, v, e, context_bias, location_bias, rate=0.0, key=None, form=None):
  """Returns the output (B, L, H, E) of relative attention within a window of W vectors; see local_attention.py.

  Args:
    q, k, v, context_bias, location_bias, rate, key, form: as for `relative_attention`, within a level.
    e: projected distances (W, H, E) of r = key - query = -(W - 1) .. 0. A query sees W vectors, itself included; W > L
      acts like W = L.
  """
  if form != 'cudnn' and _taken(form, q, k, e[None], 1, rate) == 'tpu':
    return _tpu_attention().attend(q, k, v, (e[None], context_bias, location_bias), key, 1, rate)
  content, position = (scaled(q, bias) for bias in (context_bias, location_bias))
  return local_attention_lib.attend(content, position, k, v, e, key, rate)


def scaled(q, bias):
  """Returns queries (..., H, E) plus a bias (H, E) shared by all queries, divided by sqrt(E)."""
  return ((q + wide_sums.widened(bias)) * float(q.shape[-1])**-0.5).astype(q.dtype)


@contextlib.contextmanager
def recording():
  """Yields a set that collects the forms of all attention traced within this context."""
  token = _used.set(set())
  try:
    yield _used.get()
  finally:
    _used.reset(token)


def _taken(asked, q, k, e, queries_per_group, rate):
  """Returns the form that computes an attention; reports a fallback from the requested form once, with the reason."""
  platform = sharding.platform()
  form = asked if asked in FORMS else 'tpu' if platform == 'tpu' else 'tiles'
  refusal = None
  if asked in DELETED:
    _say_once(f'attention_form is {asked!r}, which was removed: {form!r} takes its place')
  elif form == 'tpu':
    refusal = 'is for TPUs' if platform != 'tpu' else _tpu_attention().refusal(q, k, e, queries_per_group)
  elif form == 'cudnn' and platform == 'gpu' and q.dtype == jnp.float32:
    form = 'tiles'  # Initialisation and evaluation run in float32.
  elif form == 'cudnn':
    refusal = 'is for GPUs' if platform != 'gpu' else cudnn_attention.refusal(q, rate)
  if refusal is not None:
    _say_once(f"attention_form 'tiles' takes the place of {form!r}, which {refusal}")
    form = 'tiles'
  if _used.get() is not None:
    _used.get().add(form)
  return form


@functools.cache
def _say_once(line):
  progress.say(line)


def _tpu_attention():
  """Returns the Pallas module, imported on demand because the import takes a second."""
  from trax_hourglass.ops import tpu_attention  # pylint: disable=g-import-not-at-top
  return tpu_attention
