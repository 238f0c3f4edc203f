"""Defers the imports of TensorFlow, and of the parts of Trax that are built on it, until their first use.

Trax imports TensorFlow, its data sets and Gym in almost every module, which is half of Trax's import time. A model, its
training and its decoding do not need them. While Trax is imported, `Deferred` modules take their places; each imports
the real module on first access. Afterwards, `sys.modules` holds real modules only, so that any other `import` works as
usual.
"""

import contextlib
import importlib
import importlib.machinery
import os
import sys
import tempfile
import types

_OTHERS = ('tensorflow', 'tensorflow.compat', 'tensorflow.compat.v1', 'tensorflow.compat.v2', 'tensorflow_datasets',
           'tensorflow_text')
# Parts of Trax that cannot be imported without TensorFlow, Gym, or matplotlib.
_OF_TRAX = ('trax.fastmath.tf', 'trax.jaxboard', 'trax.rl', 'trax.trax2keras')
# Notices of TensorFlow on its features and on missing GPUs (JAX does the computing), and of Gym on its end of life.
_NOTICES = ('WARNING: All log messages before absl::InitializeLog()', 'I0000 ', 'To enable the following instructions',
            'Gym has been unmaintained', 'Please upgrade to Gymnasium', 'Users of this version of Gym',
            'See the migration guide at https://gymnasium')
_TYPES = 'Tensor', 'TensorShape', 'DType'  # Trax tests its arguments for these types.


def import_quietly(name):
  """Imports a module and drops known notices that it writes to file descriptor 2; other lines pass.

  C++ code writes these notices before its log can be silenced.

  Args:
    name: name of the module, TensorFlow or one that imports it.

  Returns:
    The module.
  """
  if name in sys.modules:
    return sys.modules[name]
  sys.stderr.flush()
  saved = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      return importlib.import_module(name)
    finally:
      sys.stderr.flush()
      os.dup2(saved, 2)
      os.close(saved)
      held.seek(0)
      for line in held.read().decode(errors='replace').splitlines(keepends=True):
        if not line.startswith(_NOTICES):
          sys.stderr.write(line)


class _NotMadeYet:
  """Replaces a type of TensorFlow while TensorFlow is not imported and no object of the type can exist."""


class Deferred(types.ModuleType):
  """Imports the real module of its name on first access to an attribute."""

  def __init__(self, name, **names):
    """Creates the stand-in.

    Args:
      name: name of the real module.
      **names: attributes that are available without an import.
    """
    super().__init__(name)
    self.__spec__ = importlib.machinery.ModuleSpec(name, None)
    self.__dict__.update(names)

  def __getattr__(self, name):
    if sys.modules.get(self.__name__) is self:  # During Trax's import, only for the test whether this is a package.
      raise AttributeError(name)
    if name in _TYPES and 'tensorflow' not in sys.modules:
      return _NotMadeYet
    return getattr(import_quietly(self.__name__), name)


class _Backend:
  """Replaces Trax's dictionary of TensorFlow NumPy functions."""

  def __getitem__(self, name):
    return self._functions()[name]

  def __contains__(self, name):
    return name in self._functions()

  @staticmethod
  def _functions():
    return import_quietly('trax.fastmath.tf').TF_BACKEND


@contextlib.contextmanager
def deferred():
  """Defers the imports within the block, in which Trax is imported.

  Has no effect if TensorFlow or Trax is imported already.
  """
  if 'tensorflow' in sys.modules or 'trax' in sys.modules:
    yield
    return
  stand_ins = {name: Deferred(name) for name in (*_OTHERS, *_OF_TRAX)}
  for name, module in stand_ins.items():
    parent, _, child = name.rpartition('.')
    if parent in stand_ins:
      vars(stand_ins[parent])[child] = module
  vars(stand_ins['trax.fastmath.tf'])['TF_BACKEND'] = _Backend()
  vars(stand_ins['trax.rl'])['serialization_utils'] = Deferred('trax.rl.serialization_utils')
  vars(stand_ins['trax.trax2keras'])['AsKeras'] = None
  sys.modules.update(stand_ins)
  try:
    yield
  finally:
    for name, module in stand_ins.items():
      if sys.modules.get(name) is module:
        del sys.modules[name]
  for name in _OF_TRAX:
    _defer_attribute(*name.rpartition('.')[::2], name)
  del sys.modules['trax'].AsKeras
  _defer_attribute('trax', 'AsKeras', 'trax.trax2keras')


def _defer_attribute(package, name, module):
  """Lets a package import a module on first access to an attribute: the module, or its object of that name."""
  package = sys.modules[package]
  vars(package).pop(name, None)
  before = vars(package).get('__getattr__')

  def get(asked):
    if asked == name:
      found = import_quietly(module)
      return found if module.endswith(f'.{name}') else getattr(found, name)
    if before is not None:
      return before(asked)
    raise AttributeError(f'module {package.__name__!r} has no attribute {asked!r}')

  package.__getattr__ = get
