"""Floating-point operations of a model's matrix products, counted from its own program.

What a model must compute, whatever way it is computed: attention counts the pairs of query and key that a query may
see, not what a tile holds above the diagonal, and nothing that a backward pass makes again. So it serves to compare
models, and, over the time of a step, to say what share of a machine's arithmetic was used (MFU, arXiv 2204.02311,
appendix B).

Letters: B batch, L tokens, H heads, E width of a head, Q queries, K keys.
"""

import math

import jax
from jax.extend import core as jax_core
import numpy as np

from trax_hourglass.ops import attention_vjp
from trax_hourglass.runtime.errors import InputError


def forward(model, batch_size, length):
  """Returns the floating-point operations of the matrix products of a forward pass; a product and a sum are two.

  Args:
    model: initialised layer, tokens (B, L) -> logits.
    batch_size: B.
    length: L.

  Raises:
    InputError: the model has a loop whose number of turns only shows while it runs.
  """
  tokens = jax.ShapeDtypeStruct((batch_size, length), np.int32)
  rng = jax.ShapeDtypeStruct((2,), np.uint32)
  program = jax.make_jaxpr(model.pure_fn)(tokens, model.weights, model.state, rng)
  return _operations(program.jaxpr)


def training_step(model, batch_size, length):
  """Returns the operations of a forward and a backward pass: each product has two more as its gradients.

  Arguments and errors are `forward`'s.
  """
  return 3 * forward(model, batch_size, length)


def _operations(jaxpr):
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation):
  if equation.primitive.name == 'dot_general':
    return _of_product(equation)
  if equation.params.get('name') == attention_vjp.NAME:
    return _of_attention(equation)
  by_program = [_operations(inner) for inner in jax_core.jaxprs_in_params(equation.params)]
  if equation.primitive.name == 'cond':  # Factor dropout takes each branch as often.
    return sum(by_program) // len(by_program)
  inside = sum(by_program)
  if equation.primitive.name == 'scan':
    return equation.params['length'] * inside
  if equation.primitive.name == 'while' and inside:
    raise InputError('a loop of the model has matrix products and ends when its condition says so: they cannot be '
                     'counted')
  return inside


def _of_product(equation):
  (contracted, _), _ = equation.params['dimension_numbers']
  left, out = equation.invars[0].aval, equation.outvars[0].aval
  return 2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)


def _of_attention(equation):
  """Products of `tiled_attention.attend` for visible pairs: scores of content and position, mean of values."""
  inputs = [variable.aval for variable in equation.invars if variable.aval.ndim == 4]
  (batch, n_queries, n_heads, width), (_, n_keys, *_) = (x.shape for x in inputs[:2])
  n_groups = min(n_queries, n_keys)  # Of queries or of keys one is alone in its group.
  pairs = n_groups * (n_groups + 1) // 2 * (n_queries // n_groups) * (n_keys // n_groups)
  products = 3 if len(inputs) > 3 else 2  # q, k, v; with positions their queries and embedded distances too.
  return 2 * products * width * batch * n_heads * pairs
