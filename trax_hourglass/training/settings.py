"""Holds a run's configuration, read from gin once."""

import contextlib
import copy
import dataclasses
import inspect

import gin

from trax_hourglass.runtime.errors import InputError
from trax_hourglass.training import fit as fit_lib

_PARAMETERS = {name: parameter.default for name, parameter in inspect.signature(fit_lib.fit).parameters.items()
               if name not in ('output_dir', 'callbacks')}


@dataclasses.dataclass(frozen=True)
class Settings:
  """Holds the parameters of `fit` as attributes, such as `batch_size`, with the defaults of `fit`.

  Objects of gin references, such as @ByteCorpus(), are created on first access and then cached. So opening a run for
  sampling need not read its data. A function configured by gin, such as `model`, still takes its own arguments from
  gin at each call.

  Attributes:
    bound: {parameter: value or gin reference} of the parameters that gin binds.
  """
  bound: dict
  _made: dict = dataclasses.field(default_factory=dict, repr=False)

  @classmethod
  def read(cls):
    """Returns the Settings of gin's current configuration."""
    bound = {}
    for name in _PARAMETERS:
      with contextlib.suppress(ValueError):  # Not bound.
        bound[name] = gin.query_parameter(f'fit.{name}')
    return cls(bound)

  def __getattr__(self, name):
    """Returns a parameter.

    Raises:
      InputError: the parameter is not bound and has no default, or the object of a reference cannot be created.
    """
    if name not in _PARAMETERS:
      raise AttributeError(f'fit has no parameter {name!r}')
    if name not in self._made:
      if name in self.bound:
        self._made[name] = copy.deepcopy(self.bound[name])  # Copying a gin reference creates its object.
      elif _PARAMETERS[name] is gin.REQUIRED:
        raise InputError(f'the config says nothing about fit.{name}: give a config file of a whole run, such as '
                         'gin/quickstart.gin')
      else:
        self._made[name] = _PARAMETERS[name]
    return self._made[name]

  @property
  def unit(self):
    """Returns the unit of a token, 'byte', 'dim' or 'token', or None if a user's mistake prevents the corpus.

    If the corpus class has a `unit`, no corpus is created: the corpus may be large, or its files missing.
    """
    of_class = getattr(getattr(self.bound.get('corpus'), 'configurable', None), 'wrapped', None)
    try:
      return getattr(of_class, 'unit', None) or self.corpus.unit
    except InputError:
      return None
