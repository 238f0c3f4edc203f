"""What the backward pass of a stack makes again instead of keeping: memory against time.

    'none'          keeps all that a block computes, but attention scores, which never exist as a whole
    'elementwise'   keeps matrix products and attention's outputs, and makes norms, activations and dropout masks again
    'products'      keeps attention's outputs, means and variances of norms, and the inputs of each block, and makes all
                    else again
    'blocks'        keeps the inputs of each block only, and computes each block twice

A resampling is no stack: of it, only what its feed-forward layer computes is made again (layers/scan.py).
"""

import dataclasses

import jax
import jax.numpy as jnp

from trax_hourglass.runtime import sharding

# Names that arrays carry, so that a policy knows them.
PRODUCT = 'affine_product'  # Of a dense layer, whose product a policy does not see inside its own gradient rule.
# Of attention: its output and the logarithm of the softmax's denominator; of layer norms: mean and variance.
SAVED = 'attention_output'


def _is_fused_attention(primitive, *_, **__):
  """Whether an operation is cuDNN's attention (cudnn_attention.py), which is known by its name only."""
  return primitive.name.startswith('dot_product_attention_fwd')


def _saved_attention(*others):
  """Returns the policy that keeps what attention comes to, and what has other names."""
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


def made_again(function, recompute):
  """Returns a function whose backward pass makes again what `recompute` says, outside of loops too.

  There XLA would take what is made again for what the forward pass has made, and keep it. So the backward pass begins
  from inputs that depend on the gradient, by an arithmetic that no compiler sees through.

  Args:
    function: (activations, others) -> array, of trees of arrays.
    recompute: one of CHOICES.
  """
  policy = _POLICIES[recompute]

  @jax.custom_vjp
  def run(activations, others):
    return function(activations, others)

  def forward(activations, others):
    out, pull = jax.vjp(jax.checkpoint(function, policy=policy), activations, others)
    kept, structure = jax.tree.flatten(pull)
    inputs = jax.tree.leaves(activations)
    is_input = tuple(any(one is x for x in inputs) for one in kept)
    return out, (kept, _Static((structure, is_input)))

  def backward(saved, gradient):
    kept, (structure, is_input) = saved[0], saved[1].value
    one = gradient.ravel()[0]
    never = (one < 0) & (one > 0)
    kept = [jnp.where(never, jnp.zeros((), x.dtype), x) if again else x for x, again in zip(kept, is_input)]
    return jax.tree.unflatten(structure, kept)(gradient)

  run.defvjp(forward, backward)
  return function if recompute == 'none' else run


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
  """What a residual has besides arrays."""
  value: tuple


def recomputed(body, recompute):
  """Returns the body of a loop so that the backward pass keeps of each turn what `recompute`, one of CHOICES, says."""
  if recompute == 'none':
    return sharding.not_gathered(body, prevent_cse=False)
  return jax.checkpoint(body, policy=_POLICIES[recompute], prevent_cse=False)
