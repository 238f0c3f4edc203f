"""Sets up JAX's compilation cache in the user's cache folder, so that a second command need not compile again."""

import hashlib
import os
import pathlib
import platform
import sys
import tempfile

_SETTINGS = {'jax_persistent_cache_min_compile_time_secs': 0.01, 'jax_persistent_cache_min_entry_size_bytes': 0,
             'jax_compilation_cache_max_size': 2 << 30}  # Bytes; the least recently used programs are evicted.


def use():
  """Turns the cache on, unless JAX_COMPILATION_CACHE_DIR or `jax.config` names another.

  Does not import JAX, which reads the settings from environment variables on import. If JAX is imported already, its
  config is updated. If the folder cannot be written, the command reports so once and continues without the cache.
  """
  jax = sys.modules.get('jax')
  if os.environ.get('JAX_COMPILATION_CACHE_DIR') or jax and jax.config.jax_compilation_cache_dir:
    return
  path = folder()
  try:
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()
  except OSError as error:
    from trax_hourglass.runtime.progress import say  # pylint: disable=g-import-not-at-top
    say(f'compiled programs are not cached: {str(path)!r} cannot be written ({error.strerror}); set '
        'JAX_COMPILATION_CACHE_DIR to a folder, or give --no_compilation_cache')
    return
  settings = {'jax_compilation_cache_dir': str(path), **_SETTINGS}
  os.environ.update({name.upper(): str(value) for name, value in settings.items()})
  if jax:
    for name, value in settings.items():
      jax.config.update(name, value)
    from jax.experimental.compilation_cache import compilation_cache  # pylint: disable=g-import-not-at-top
    compilation_cache.reset_cache()  # It may have been initialized without a folder.


def folder():
  """Returns the cache's folder: below XDG_CACHE_HOME or else ~/.cache, one for each kind of processor.

  A program compiled for one CPU may hold instructions that another CPU lacks.
  """
  caches = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  return caches / 'trax_hourglass' / 'compiled' / processor()


def processor():
  """Returns a name of this machine's kind of processor: its architecture and a hash of its features."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
  except OSError:  # Not Linux.
    lines = []
  features = next((line for line in lines if line.partition(':')[0].strip().lower() in ('flags', 'features')), '')
  abilities = f'{features}{platform.processor()}'
  return f'{platform.machine()}-{hashlib.sha256(abilities.encode()).hexdigest()[:12]}'
