"""Counts the floating-point operations of a model's matrix products from the model's own program.

The count is what a model must compute, whatever the implementation. Attention counts the visible pairs of query and
key, not the part of a tile above the diagonal or beyond a window. Rematerialization in the backward pass does not
count. The count serves to compare models. Divided by step time, the count gives the share of a machine's arithmetic
used (MFU, arXiv 2204.02311, appendix B).

Letters: B batch, L tokens, H heads, E width of a head, Q queries, K keys.
"""

import collections
import math

import jax
from jax.extend import core as jax_core
import numpy as np

from trax_hourglass.ops import attention_vjp
from trax_hourglass.runtime.errors import InputError


def forward(model, batch_size, length):
  """Returns the floating-point operations of the matrix products of a forward pass; a multiply-add counts as two.

  Args:
    model: initialised layer, tokens (B, L) -> logits.
    batch_size: B.
    length: L.

  Raises:
    InputError: the model has a loop whose number of iterations is known only at run time.
  """
  return sum(by_scope(model, batch_size, length).values())


def by_scope(model, batch_size, length):
  """Returns {scope: operations} of a forward pass; a scope is a path of named layers, 'Valley_3/Stack_8@3'.

  Arguments and errors are those of `forward`.
  """
  return dict(_of_program(_program(model, batch_size, length)))


def training_step(model, batch_size, length):
  """Returns the operations of a forward and a backward pass: the gradients of each product are two more.

  Arguments and errors are those of `forward`.
  """
  return 3 * forward(model, batch_size, length)


def _program(model, batch_size, length):
  tokens = jax.ShapeDtypeStruct((batch_size, length), np.int32)
  rng = jax.ShapeDtypeStruct((2,), np.uint32)
  return jax.make_jaxpr(model.pure_fn)(tokens, model.weights, model.state, rng).jaxpr


def _of_program(jaxpr, scope=''):
  """Returns a Counter of operations by scope."""
  counts = collections.Counter()
  for equation in jaxpr.eqns:
    here = '/'.join(filter(None, (scope, str(equation.source_info.name_stack))))
    for name, count in _of_equation(equation, here).items():
      counts[name] += count
  return counts


def _of_equation(equation, scope):
  if equation.primitive.name == 'dot_general':
    return {scope: _of_product(equation)}
  if equation.params.get('name') == attention_vjp.NAME:
    return {scope: _of_attention(equation)}
  programs = [_of_program(inner, scope) for inner in jax_core.jaxprs_in_params(equation.params)]
  inside = sum(programs, collections.Counter())
  if equation.primitive.name == 'cond':  # Factor dropout takes each branch equally often.
    return {name: count // len(programs) for name, count in inside.items()}
  if equation.primitive.name == 'scan':
    return {name: count * equation.params['length'] for name, count in inside.items()}
  if equation.primitive.name == 'while' and inside:
    raise InputError('a loop of the model has matrix products and ends when its condition says so: they cannot be '
                     'counted')
  return inside


def _of_product(equation):
  (contracted, _), _ = equation.params['dimension_numbers']
  left, out = equation.invars[0].aval, equation.outvars[0].aval
  return 2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)


def _of_attention(equation):
  """Counts an attention's products for visible pairs: content and position scores, mean of values.

  All forms of attention have name and order of arrays in common. These are q (B, Q, H, E), k and v (B, K, H, E), and
  with positions, last, the projected distances (P, W, H, E). W is K, or the window.
  """
  inputs = [variable.aval for variable in equation.invars if variable.aval.ndim == 4]
  (batch, n_queries, n_heads, width), (_, n_keys, *_) = (x.shape for x in inputs[:2])
  has_positions = len(inputs) > 3
  n_groups = min(n_queries, n_keys)  # A group has either one query or one key.
  window = min(n_groups, inputs[-1].shape[1])
  pairs = (window * n_groups - window * (window - 1) // 2) * (n_queries // n_groups) * (n_keys // n_groups)
  return 2 * (3 if has_positions else 2) * width * batch * n_heads * pairs
