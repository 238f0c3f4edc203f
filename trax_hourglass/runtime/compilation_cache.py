"""JAX's cache of compiled programs, in the user's cache folder, so that a second command need not compile again."""

import hashlib
import os
import pathlib
import platform
import sys
import tempfile

_SETTINGS = {'jax_persistent_cache_min_compile_time_secs': 0.01, 'jax_persistent_cache_min_entry_size_bytes': 0,
             'jax_compilation_cache_max_size': 2 << 30}  # Bytes; the programs that were not used for longest go.


def use():
  """Turns the cache on, unless JAX_COMPILATION_CACHE_DIR or `jax.config` names another.

  Imports no JAX, which reads the settings from environment variables when it is imported. Where it is already, its
  settings change. A folder that cannot be written is said once, and the command goes on without.
  """
  jax = sys.modules.get('jax')
  if os.environ.get('JAX_COMPILATION_CACHE_DIR') or jax and jax.config.jax_compilation_cache_dir:
    return
  path = folder()
  try:
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()
  except OSError as error:
    from trax_hourglass.runtime.progress import say  # Imports JAX.  pylint: disable=g-import-not-at-top
    say(f'programs are compiled anew each time: {str(path)!r} cannot be written ({error.strerror}); set '
        'JAX_COMPILATION_CACHE_DIR to a folder, or give --no_compilation_cache')
    return
  settings = {'jax_compilation_cache_dir': str(path), **_SETTINGS}
  os.environ.update({name.upper(): str(value) for name, value in settings.items()})
  if jax:
    for name, value in settings.items():
      jax.config.update(name, value)
    from jax.experimental.compilation_cache import compilation_cache  # pylint: disable=g-import-not-at-top
    compilation_cache.reset_cache()  # It may have found no folder before, and would not look again.


def folder():
  """Returns the cache's folder: below XDG_CACHE_HOME or else ~/.cache, one for each kind of processor.

  A program that was compiled for a CPU may hold instructions that another one does not know.
  """
  caches = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  return caches / 'trax_hourglass' / 'compiled' / processor()


def processor():
  """Returns a name of this machine's kind of processor: its architecture and a hash of what it can do."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
  except OSError:  # Not Linux.
    lines = []
  features = next((line for line in lines if line.partition(':')[0].strip().lower() in ('flags', 'features')), '')
  abilities = f'{features}{platform.processor()}'
  return f'{platform.machine()}-{hashlib.sha256(abilities.encode()).hexdigest()[:12]}'
