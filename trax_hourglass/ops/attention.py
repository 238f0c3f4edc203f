"""Causal attention at one rate or across two, with relative positions, as pure functions.

One geometry covers the three uses in an Hourglass. Queries and keys come in M groups; one group is `queries_per_group`
queries and `keys_per_group` keys, of which one is always 1:

    within a level      1 query, 1 key      query i sees keys <= i
    shortening by k     1 query, k keys     coarse query i sees the fine keys of groups <= i
    upsampling by k     k queries, 1 key    fine query i sees coarse keys <= i // k

A query of group m sees the keys of groups 0 .. m. There are three forms of the same function:

    'tiles'     plain JAX, tiled_attention.py: CPU, TPU and GPU, any type, dropout of weights
    'pallas'    Triton kernels, pallas_attention.py: GPU, any type, dropout of weights
    'cudnn'     cuDNN's fused attention, cudnn_attention.py: GPU, bfloat16, no dropout of weights

Letters: B batch, H heads, M groups, P queries per group, A keys per group, Q = M P queries, K = M A keys, and as many
distances, D model width, E width of a head.
"""

from trax_hourglass.ops import tiled_attention
from trax_hourglass.ops import wide_sums
from trax_hourglass.runtime.errors import InputError

FORMS = ('tiles', 'pallas', 'cudnn')


def relative_attention(q, k, v, e, context_bias, location_bias, rate=0.0, key=None, form='tiles'):
  """Returns the output (B, Q, H, E) of Transformer-XL's attention, before the output projection.

  Scores are content (q + c) . k_j and position (q + l) . e(r), where r is the distance from query to key and e a
  projected sinusoid, over sqrt(E) (arXiv 1901.02860, section 3.3; paper section 2).

  Args:
    q: queries (B, Q, H, E).
    k: keys (B, K, H, E).
    v: values (B, K, H, E).
    e: projected distances (P, K, H, E), in the order of `distances`.
    context_bias: (H, E), c.
    location_bias: (H, E), l.
    rate: dropout of attention weights, in [0, 1).
    key: JAX PRNG key uint32 (2,); needed where rate > 0.
    form: one of FORMS.

  Raises:
    InputError: the lengths are not whole groups, or the form cannot do this.
  """
  queries_per_group, n_keys = e.shape[:2]
  n_groups = max(1, q.shape[1] // queries_per_group)
  if n_groups * queries_per_group != q.shape[1] or n_keys != k.shape[1] or n_keys % n_groups:
    raise InputError(f'{q.shape[1]} queries and {k.shape[1]} keys are not whole groups of {queries_per_group} queries, '
                     f'or do not fit {n_keys} distances')
  content, position = (scaled(q, bias) for bias in (context_bias, location_bias))
  return _attend(form)(content, k, v, (position, e), key, queries_per_group, rate)


def scaled(q, bias):
  """Returns queries (..., H, E) plus a bias (H, E), which every query shares, over sqrt(E)."""
  return ((q + wide_sums.widened(bias)) * float(q.shape[-1])**-0.5).astype(q.dtype)


def rotary_attention(q, k, v, rate=0.0, key=None, form='tiles'):
  """Returns the output (B, L, H, E) of attention within a level with rotary positions (arXiv 2104.09864).

  Args:
    q: queries (B, L, H, E), `rotated`.
    k: keys (B, L, H, E), `rotated`.
    v: values (B, L, H, E).
    rate: dropout of attention weights, in [0, 1).
    key: JAX PRNG key uint32 (2,); needed where rate > 0.
    form: one of FORMS.

  Raises:
    InputError: the form cannot do this.
  """
  return _attend(form)(q * float(q.shape[-1])**-0.5, k, v, None, key, 1, rate)


def _attend(form):
  """Returns the function of a form; Pallas is imported where it is asked for, since that takes a second."""
  if form == 'tiles':
    return tiled_attention.attend
  # pylint: disable=g-import-not-at-top
  if form == 'pallas':
    from trax_hourglass.ops import pallas_attention
    return pallas_attention.attend
  from trax_hourglass.ops import cudnn_attention
  return cudnn_attention.attend
