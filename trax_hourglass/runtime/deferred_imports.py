"""Leaves out, while Trax is imported, TensorFlow and the parts of Trax that are built on it, until something uses them.

Trax imports TensorFlow, its data sets and Gym in almost every module: half of the seconds that importing Trax takes. A
model, its training and its decoding need nothing of them. While Trax is imported, `Deferred` modules stand in their
places; each imports the real module when it is first asked for something. Afterwards `sys.modules` holds real modules
only, so that an `import` by anyone else finds what it names.
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
# TensorFlow's on its own features and on GPUs that it misses (JAX does the computing), and Gym's on its end of life.
_NOTICES = ('WARNING: All log messages before absl::InitializeLog()', 'I0000 ', 'To enable the following instructions',
            'Gym has been unmaintained', 'Please upgrade to Gymnasium', 'Users of this version of Gym',
            'See the migration guide at https://gymnasium')
_TYPES = 'Tensor', 'TensorShape', 'DType'  # Trax asks whether what it is given is one of them.


def import_quietly(name):
  """Imports a module, holding back known notices that it writes to file descriptor 2; other lines get through.

  C++ code writes them before its log can be told to be silent.

  Args:
    name: of the module, which is TensorFlow or imports it.

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
  """Stands in for a type of TensorFlow while TensorFlow is not imported and no object of that type can exist."""


class Deferred(types.ModuleType):
  """A module that imports the one of its name when it is first asked for an attribute."""

  def __init__(self, name, **names):
    """Creates it.

    Args:
      name: of the real module.
      **names: attributes that it has without importing anything.
    """
    super().__init__(name)
    self.__spec__ = importlib.machinery.ModuleSpec(name, None)
    self.__dict__.update(names)

  def __getattr__(self, name):
    if sys.modules.get(self.__name__) is self:  # Trax is being imported: all it may want is whether this is a package.
      raise AttributeError(name)
    if name in _TYPES and 'tensorflow' not in sys.modules:
      return _NotMadeYet
    return getattr(import_quietly(self.__name__), name)


class _Backend:
  """Stands in for the dictionary of functions by which Trax computes with TensorFlow's NumPy."""

  def __getitem__(self, name):
    return self._functions()[name]

  def __contains__(self, name):
    return name in self._functions()

  @staticmethod
  def _functions():
    return import_quietly('trax.fastmath.tf').TF_BACKEND


@contextlib.contextmanager
def deferred():
  """Within it, Trax is imported without what it need not have; nothing happens where TensorFlow is there already."""
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
  """Lets a package import a module when it is asked for it, or for that module's object of this name."""
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
