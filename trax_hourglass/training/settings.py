"""A run's configuration, read from gin once and passed on."""

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
  """The parameters of `fit` as attributes, such as `batch_size`, with the defaults that `fit` has.

  What gin's references stand for, such as @ByteCorpus(), is made when it is first asked for, and once: opening a run
  for sampling need not read its data. A function that gin configures, such as `model`, still takes its own arguments
  from gin when it is called.

  Attributes:
    bound: {parameter: value or gin's reference} of those that gin binds.
  """
  bound: dict
  _made: dict = dataclasses.field(default_factory=dict, repr=False)

  @classmethod
  def read(cls):
    """Returns what gin is configured for now."""
    bound = {}
    for name in _PARAMETERS:
      with contextlib.suppress(ValueError):  # It is not bound.
        bound[name] = gin.query_parameter(f'fit.{name}')
    return cls(bound)

  def __getattr__(self, name):
    """Returns a parameter.

    Raises:
      InputError: it is not bound and `fit` has no default, or what is bound cannot be made.
    """
    if name not in _PARAMETERS:
      raise AttributeError(f'fit has no parameter {name!r}')
    if name not in self._made:
      if name in self.bound:
        self._made[name] = copy.deepcopy(self.bound[name])  # gin makes what a reference stands for when it is copied.
      elif _PARAMETERS[name] is gin.REQUIRED:
        raise InputError(f'the config says nothing about fit.{name}: give a config file of a whole run, such as '
                         'gin/quickstart.gin')
      else:
        self._made[name] = _PARAMETERS[name]
    return self._made[name]

  @property
  def unit(self):
    """Returns what a token of the corpus is, 'byte', 'dim' or 'token', or None where the corpus cannot be made.

    Most classes of corpora say it, and no corpus is made then: it may be large, or its files be elsewhere.
    """
    of_class = getattr(getattr(self.bound.get('corpus'), 'configurable', None), 'wrapped', None)
    try:
      return getattr(of_class, 'unit', None) or self.corpus.unit
    except InputError:
      return None
