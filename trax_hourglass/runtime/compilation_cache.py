"""Compiled programs kept in a folder, so that processes and runs with equal ones compile them once."""

import contextlib

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def kept_in(folder):
  """Within it, JAX looks into the folder before it compiles, and keeps there what it has compiled."""
  settings = {'jax_compilation_cache_dir': str(folder), 'jax_persistent_cache_min_compile_time_secs': 0,
              'jax_persistent_cache_min_entry_size_bytes': -1}
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
