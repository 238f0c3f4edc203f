"""Writes and checks versions.json of a run directory: file format, package versions and devices."""

import contextlib
import importlib.metadata
import json
import platform

import jax

from trax_hourglass.runtime import atomic_files
from trax_hourglass.runtime.errors import InputError

_FILE = 'versions.json'
FORMAT = 1  # Format of config.gin, checkpoints and their notes; runs that record no format have this one.
_PACKAGES = 'trax_hourglass', 'jax', 'jaxlib', 'trax', 'tensorflow', 'numpy', 'gin-config', 'orbax-checkpoint'


def write(directory):
  """Writes versions.json.

  Args:
    directory: pathlib.Path of the run directory.
  """
  packages = {}
  for name in _PACKAGES:
    # Absent for a source checkout or a substitute package.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      packages[name] = importlib.metadata.version(name)
  atomic_files.write(directory / _FILE, json.dumps({
      'format': FORMAT, **packages, 'python': platform.python_version(),
      'devices': [device.device_kind for device in jax.devices()]}, indent=1) + '\n')


def check_format(directory):
  """Raises InputError if this version of trax_hourglass cannot read the format of a run directory.

  Args:
    directory: pathlib.Path of the run directory, which need not exist.
  """
  path = directory / _FILE
  try:
    found = json.loads(path.read_text(encoding='utf-8')).get('format', FORMAT)
  except FileNotFoundError:
    return
  except (OSError, ValueError, AttributeError) as error:
    raise InputError(f'{str(path)!r} does not say the format of the run ({error}): restore it, or delete it if the run '
                     f'is of format {FORMAT}') from None
  if not isinstance(found, int) or not 1 <= found <= FORMAT:
    raise InputError(f'{str(directory)!r} holds a run of format {found!r}, and this version of trax_hourglass reads '
                     f'format {FORMAT}: install the version that {str(path)!r} names, or a newer one')
