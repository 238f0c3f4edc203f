"""Uses the compilation cache in a child process: `main([])` prints the numbers of compilations and of cache hits."""

import collections
import json

import jax
import jax.numpy as jnp

from trax_hourglass.runtime import compilation_cache

_HIT, _MISS = '/jax/compilation_cache/cache_hits', '/jax/compilation_cache/cache_misses'


def main(arguments):
  """Turns the cache on as commands do, and compiles a function."""
  del arguments
  # The process is forked from a server that uses the tests' cache.
  jax.config.update('jax_compilation_cache_dir', None)
  jax.jit(lambda x: x + 1)(1)  # As in a notebook, which has compiled something before.
  compilation_cache.use()
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  counts = collections.Counter()
  jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
  jax.jit(lambda x: jnp.sort(jnp.sin(x) @ x))(jnp.ones((7, 7))).block_until_ready()
  print(json.dumps({'folder': jax.config.jax_compilation_cache_dir, 'hits': counts[_HIT], 'misses': counts[_MISS],
                    'most_bytes': jax.config.jax_compilation_cache_max_size}))
