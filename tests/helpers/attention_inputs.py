"""Makes random inputs of attention and computes its gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from trax_hourglass.ops import positions

B, H, E = 2, 3, 5
GEOMETRIES = [(1, 1), (1, 3), (3, 1), (1, 2), (2, 1)]


def inputs(groups, queries_per_group, keys_per_group, seed=0):
  """Returns random arguments of relative_attention, and the map from a distance to its embedding."""
  random = np.random.RandomState(seed)
  q, k, v = (random.randn(B, n, H, E) for n in (groups * queries_per_group,) + (groups * keys_per_group,) * 2)
  distances = positions.distances(groups, queries_per_group, keys_per_group)
  table = random.randn(2 * distances.size + 1, H, E)
  middle = table.shape[0] // 2
  arrays = q, k, v, table[distances + middle], random.randn(H, E), random.randn(H, E)
  return [jnp.asarray(a, jnp.float32) for a in arrays], lambda r: table[r + middle]


def gradients(function, arrays):
  """Returns the gradients of a random projection of the function's result with respect to all arrays."""
  probe = jnp.asarray(np.random.RandomState(1).randn(*arrays[0].shape), jnp.float32)
  return jax.grad(lambda *a: (function(*a) * probe).sum(), argnums=range(len(arrays)))(*arrays)
