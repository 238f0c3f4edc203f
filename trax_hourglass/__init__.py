"""Provides Hourglass, a hierarchical Transformer language model, on Trax and current JAX.

Importing the package patches Trax 1.4.1 for current JAX and registers models, layers, corpora and training with gin.
When a command of the package starts, both happen later, on first use.
"""

import importlib

from trax_hourglass.runtime import moved_modules
from trax_hourglass.runtime import startup

__version__ = '0.2.0'

_CONFIGURABLE = (
    # Hourglass, and Trax's models under the same interface.
    'Hourglass', 'TraxLanguageModel',
    # Plug-ins: attention, shortening, upsampling, boundaries.
    'CausalRelativeAttention', 'CausalRotaryAttention', 'CausalLocalAttention', 'TraxAttention',
    'ShortenByAttention', 'ShortenByAverage', 'ShortenByLinear', 'ShortenAtBoundaries',
    'UpsampleByAttention', 'UpsampleByLinear', 'UpsampleByNothing', 'UpsampleByRepeat',
    'UpsampleFromBoundaries', 'EveryKth', 'EndOfWord', 'AtBytes',
    # Corpora, and samplers of windows.
    'ByteCorpus', 'Enwik8', 'Text8', 'Wiki40b', 'Cifar10', 'VanDenOordImagenet', 'ChrabaszczImagenet', 'ImageFolder',
    'RandomWindows', 'Epochs',
    # Training and its learning-rate schedules.
    'fit', 'WarmupCosine', 'WarmupStableDecay', 'CosineEnd', 'LevelRates',
)
_MODULES = {
    'interop': 'models.interop',                 # Weights to and from trax.models.HourglassLM.
    'hierarchy': 'models.hierarchy',             # The hierarchy notation.
    'run_directory': 'training.run_directory',   # Opens a saved run.
    'run_evaluation': 'training.evaluate_run',   # Scores an opened run.
    'evaluation': 'inference.scoring',           # Bits per byte of any model and data.
    'decoding': 'inference.decoding',            # Samples from models in mode 'predict'.
    'attention_maps': 'inference.attention_maps',
    'report': 'comparison.report',               # Tables of a comparison.
}
_FUNCTIONS = {
    'pretrained': 'training.run_directory',  # Opens a model shipped with the package.
    'decodes': 'layers.plugins',                 # Marks a plug-in that works in mode 'predict'.
    'parse_gin': 'runtime.gin_config',           # Reads gin files and bindings.
}

__all__ = sorted((*_CONFIGURABLE, *_MODULES, *_FUNCTIONS))


def __getattr__(name):
  """Imports a public name on first access."""
  if name in _CONFIGURABLE:
    value = getattr(importlib.import_module('trax_hourglass.registry'), name)
  elif name in _MODULES:
    value = importlib.import_module(f'trax_hourglass.{_MODULES[name]}')
  elif name in _FUNCTIONS:
    value = getattr(importlib.import_module(f'trax_hourglass.{_FUNCTIONS[name]}'), name)
  else:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  globals()[name] = value
  return value


moved_modules.install()
if not startup.is_command():
  for _name in __all__:
    __getattr__(_name)
