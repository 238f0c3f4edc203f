"""Reports a user's mistakes in one line, and finds whose code raised an error."""

import os
import pathlib
import re
import sysconfig
import traceback

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_PYTHON = tuple(pathlib.Path(sysconfig.get_path(name)).resolve() for name in ('stdlib', 'platstdlib'))
_INSTALLED = 'site-packages', 'dist-packages'
# Libraries whose errors concern values passed to them. Other installed packages may be a user's own plug-ins.
_LIBRARIES = frozenset(('absl', 'etils', 'fontTools', 'gin', 'jax', 'jaxlib', 'matplotlib', 'numpy', 'orbax', 'PIL',
                        'requests', 'safetensors', 'scipy', 'tensorboard', 'tensorflow', 'tensorflow_datasets',
                        'tensorflow_text', 'tensorstore', 'tqdm', 'trax', 'urllib3', 'zstandard'))


class InputError(ValueError):
  """Signals a user's mistake or a damaged file; the one-line message names the problem and the remedy."""


def one_line(error):
  """Returns an exception's message without line breaks and gin's remarks about its own call stack."""
  text = re.split(r'\n  In (?:call to|file|bindings string) ', str(error))[0] or type(error).__name__
  return ' '.join(text.split())


def cause(error):
  """Returns the original exception: Trax replaces one in a layer by a `LayerError` that holds only text."""
  while type(error).__name__ == 'LayerError' and error.__context__ is not None:
    error = error.__context__
  return error


def users_frames(error):
  """Returns the frames of an exception's traceback that are in a user's own files, outermost first."""
  return [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]


def _is_users(filename):
  if filename.startswith('<'):  # Not a file: a generated function, or Python's own import.
    return False
  path = pathlib.Path(os.path.realpath(filename))
  installed = [place for place, part in enumerate(path.parts) if part in _INSTALLED]
  if installed:
    first = path.parts[installed[-1] + 1]
    return first != _PACKAGE.name and first not in _LIBRARIES
  return not any(path.is_relative_to(folder) for folder in (_PACKAGE, *_PYTHON))
