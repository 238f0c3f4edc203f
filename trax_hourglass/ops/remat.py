"""Rematerializes intermediates in the backward pass of a stack, trading time for memory.

    'none'          keeps all intermediates of a block but those of norms; attention scores never exist as a whole
    'elementwise'   keeps matrix products and attention outputs; recomputes norms, activations and dropout masks
    'products'      keeps attention outputs, two numbers per vector of each norm, and the inputs of each block;
                    recomputes the rest
    'blocks'        keeps the inputs of each block only, and computes each block twice

Resampling layers are not stacks, but follow the same policies (layers/remade.py).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from trax_hourglass.runtime import sharding

# Checkpoint names of arrays, by which policies find them.
PRODUCT = 'affine_product'  # A dense layer's product; a policy cannot see the product inside a custom gradient rule.
# Attention: the output and the logarithm of the softmax's denominator. Layer norms: mean and inverse deviation.
SAVED = 'attention_output'


def _is_fused_attention(primitive, *_, **__):
  """Returns whether an operation is cuDNN's attention (cudnn_attention.py), recognized by its name."""
  return primitive.name.startswith('dot_product_attention_fwd')


def _saved_attention(*others):
  """Returns the policy that keeps attention's named results, cuDNN's included, and arrays with the other names."""
  return jax.checkpoint_policies.save_from_both_policies(
      jax.checkpoint_policies.save_only_these_names(SAVED, *others), _is_fused_attention)


_POLICIES = {
    'none': None,
    'elementwise': jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _saved_attention(PRODUCT)),
    'products': _saved_attention(),
    'blocks': jax.checkpoint_policies.nothing_saveable,
}
CHOICES = tuple(_POLICIES)
# Longest loop that is unrolled, by platform; elsewhere 1, of which XLA makes no loop. On accelerators two iterations
# take less memory than a loop, and fewer cycles, since a loop copies its stacked values in and out.
_UNROLLED = {'gpu': 2, 'tpu': 2}


def made_again(function, recompute):
  """Returns a function whose backward pass rematerializes as `recompute` selects, outside of loops too.

  Outside of loops, XLA would merge recomputed values with those of the forward pass, and keep them. So recomputation
  starts from inputs that depend on the gradient, through arithmetic that no compiler simplifies. A barrier ends this
  backward pass before that of earlier layers begins; otherwise its intermediates would stay in memory.

  Args:
    function: (inputs, others) -> (outputs, others), trees of arrays; only inputs and outputs have gradients.
    recompute: one of CHOICES.
  """
  policy = _POLICIES[recompute]

  @jax.custom_vjp
  def run(inputs, others):
    return function(inputs, others)

  def forward(inputs, others):
    of_inputs = lambda inputs: function(inputs, others)
    out, pull, new = jax.vjp(jax.checkpoint(of_inputs, policy=policy), inputs, has_aux=True)
    kept, structure = jax.tree.flatten(pull)
    given = jax.tree.leaves(inputs)
    is_input = tuple(any(one is x for x in given) for one in kept)
    return (out, new), (kept, _Static((structure, is_input)), others)

  def backward(saved, gradients):
    kept, (structure, is_input), others = saved[0], saved[1].value, saved[2]
    gradient, _ = gradients
    never = _never(gradient)
    kept = [jnp.where(never, jnp.zeros((), x.dtype), x) if again else x for x, again in zip(kept, is_input)]
    of_inputs, = jax.tree.unflatten(structure, kept)(gradient)
    return jax.lax.optimization_barrier(of_inputs), jax.tree.map(_no_gradient, others)

  run.defvjp(forward, backward)
  return function if recompute == 'none' else run


def _no_gradient(x):
  return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.inexact) else np.zeros(x.shape, jax.dtypes.float0)


def cast(tree, dtype):
  """Returns a tree of arrays with those in float32 cast to the given type."""
  return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, tree)


def looped(body, recompute, dtype='float32'):
  """Returns a loop over layers that rematerializes each iteration as `recompute` selects.

  Short loops are unrolled. In others, residuals and gradients are stacked into zeros that depend on the loop's inputs.
  With the constant zeros of `jax.lax.scan`, XLA would allocate the stacks of all loops at the beginning of a step. All
  of them would then be live at the memory peak. XLA for TPUs drops most of these zeros, so the loop is a plain scan
  there.

  Args:
    body: (x, shared, own, others) -> (x, others) of an iteration; trees of arrays, others without gradients.
    recompute: one of CHOICES.
    dtype: type to which an iteration casts its own float32 arrays, and in which their gradients are stacked. A cast
      before the loop would keep bfloat16 copies of all iterations' arrays beside the float32 ones throughout the step.
      This happens on TPUs, where XLA moves the cast out of the loop.

  Returns:
    (x, shared, own (N, ...), others (N, ...)) -> (x, others (N, ...)).
  """
  if recompute == 'none':
    body = sharding.not_gathered(body, prevent_cse=False)

  def checkpointed(function):
    return function if recompute == 'none' else jax.checkpoint(function, policy=_POLICIES[recompute], prevent_cse=False)

  def of_turn(own):
    return own if dtype == jnp.float32 else cast(jax.lax.optimization_barrier(own), dtype)

  def run(x, shared, own, others):
    return jax.lax.scan(lambda x, turn: checkpointed(body)(x, shared, *turn), x, (cast(own, dtype), others))

  def forward(x, shared, own, others):
    found = []

    def turn(x, own, others):
      own = of_turn(own)
      of_inputs = checkpointed(lambda *inputs: body(*inputs, others))
      y, pull, new = jax.vjp(of_inputs, x, shared, own, has_aux=True)
      kept, structure = jax.tree.flatten(pull)
      given = jax.tree.leaves((shared, own, others))
      places = [next((i for i, x in enumerate(given) if x is one), None) for one in kept]
      found.append(_Static((structure, tuple(places))))
      return y, new, [one for one, place in zip(kept, places) if place is None]

    def turn_and_put(carry, turns):
      x, stacks = carry
      i, *turns = turns
      x, new, put = turn(x, *turns)
      return (x, [_put(stack, one, i) for stack, one in zip(stacks, put)]), new

    never, n_turns = _never((x, own)), len(jax.tree.leaves(own)[0])
    *_, put = jax.eval_shape(turn, x, *jax.tree.map(lambda x: x[0], (own, others)))
    stacks = [jnp.full((n_turns, *one.shape), never).astype(one.dtype) for one in put]
    (y, kept), new = jax.lax.scan(turn_and_put, (x, stacks), (jnp.arange(n_turns), own, others))
    return (y, new), (kept, found[-1], shared, own, others)

  def backward(saved, gradients):
    kept, static, shared, own, others = saved
    (structure, places), (d_y, _) = static.value, gradients
    never = _never(d_y)

    def turn(carry, turns):
      d_x, d_shared, d_own = carry
      i, kept, own, others = turns
      own = of_turn(own)
      given, kept = jax.tree.leaves((shared, own, others)), iter(kept)
      pull = jax.tree.unflatten(structure, [next(kept) if place is None else given[place] for place in places])
      d_x, of_shared, of_own = pull(d_x)
      d_own = jax.tree.map(lambda stack, one: _put(stack, one, i), d_own, of_own)
      return (d_x, jax.tree.map(jnp.add, d_shared, of_shared), d_own), None

    nothing = jax.tree.map(lambda x: jnp.where(never, x, jnp.zeros((), x.dtype)), (shared, cast(own, dtype)))
    (d_x, d_shared, d_own), _ = jax.lax.scan(turn, (d_y, *nothing), (
        jnp.arange(len(jax.tree.leaves(own)[0])), kept, own, others), reverse=True)
    d_own = jax.tree.map(lambda d, x: d.astype(x.dtype), d_own, own)
    return d_x, d_shared, d_own, jax.tree.map(_no_gradient, others)

  def unrolled(x, shared, own, others):
    made, new = made_again(lambda inputs, others: body(*inputs, others), recompute), []
    for i in range(len(jax.tree.leaves(own)[0])):
      own_turn, others_turn = jax.tree.map(lambda x: x[i], (own, others))
      x, new_turn = made((x, shared, cast(own_turn, dtype)), others_turn)
      new.append(new_turn)
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *new)

  def loop(x, shared, own, others):
    platform = sharding.platform()
    if len(jax.tree.leaves(own)[0]) <= _UNROLLED.get(platform, 1):
      return unrolled(x, shared, own, others)
    return (run if platform == 'tpu' else tied)(x, shared, own, others)

  tied = jax.custom_vjp(run)
  tied.defvjp(forward, backward)
  return loop


def _put(stack, one, i):
  return jax.lax.dynamic_update_index_in_dim(stack, one, i, 0)


@jax.custom_vjp
def at_once(tree):
  """Returns the tree of arrays; the backward pass uses no gradient before all of the tree's gradients exist."""
  return tree


at_once.defvjp(lambda tree: (tree, None), lambda _, gradients: (jax.lax.optimization_barrier(gradients),))


def _never(tree):
  """Returns False, through arithmetic on a tree's first array that no compiler simplifies."""
  first = jax.tree.leaves(tree)[0]
  one = first[(0,) * first.ndim]  # Indexing a flattened array would make devices gather the whole array.
  return (one < 0) & (one > 0)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
  """Holds the static part of residuals, which is not arrays."""
  value: tuple
