"""Registers models, layers, corpora and training with gin; no other module does.

Gin files name models `@trax_hourglass.models.NAME` and layers `@trax_hourglass.layers.NAME`, or use the bare name. None
of the names is also registered by Trax. To register an attention, shortening or upsampling of your own, call
`gin.external_configurable(MyShortening, module='my_project')`.
"""

import gin

from trax_hourglass.comparison import compare as compare_lib
from trax_hourglass.data import batches
from trax_hourglass.data import byte_corpus
from trax_hourglass.data import cifar10
from trax_hourglass.data import enwik8
from trax_hourglass.data import image_folder
from trax_hourglass.data import imagenet
from trax_hourglass.data import wiki40b
from trax_hourglass.layers import attention
from trax_hourglass.layers import boundaries
from trax_hourglass.layers import boundary_groups
from trax_hourglass.layers import resampling
from trax_hourglass.layers import trax_attention
from trax_hourglass.models import hourglass
from trax_hourglass.models import trax_language_model
from trax_hourglass.training import fit as fit_lib
from trax_hourglass.training import level_rates
from trax_hourglass.training.run_config import of_older_versions  # For `train`.  pylint: disable=unused-import
from trax_hourglass.training import schedules

_registered = {}


def _register(function, module, **options):
  """Registers a function with gin and returns its configurable version.

  Default plug-ins of the function are replaced by their configurable versions. Otherwise, a binding such as
  `ShortenByAttention.query = ...` would not affect a shortening that is a default argument.
  """
  if getattr(function, '__defaults__', None):
    function.__defaults__ = tuple(
        _registered.get(default, default) if callable(default) else default for default in function.__defaults__)
  _registered[function] = gin.external_configurable(function, module=f'trax_hourglass.{module}', **options)
  return _registered[function]


CausalRelativeAttention = _register(attention.CausalRelativeAttention, 'layers')
CausalRotaryAttention = _register(attention.CausalRotaryAttention, 'layers')
CausalLocalAttention = _register(attention.CausalLocalAttention, 'layers')
TraxAttention = _register(trax_attention.TraxAttention, 'layers')
ShortenByAverage = _register(resampling.ShortenByAverage, 'layers')
ShortenByLinear = _register(resampling.ShortenByLinear, 'layers')
ShortenByAttention = _register(resampling.ShortenByAttention, 'layers')
ShortenAtBoundaries = _register(boundary_groups.ShortenAtBoundaries, 'layers')
UpsampleFromBoundaries = _register(boundary_groups.UpsampleFromBoundaries, 'layers')
EveryKth = _register(boundaries.EveryKth, 'layers')
EndOfWord = _register(boundaries.EndOfWord, 'layers')
AtBytes = _register(boundaries.AtBytes, 'layers')
UpsampleByNothing = _register(resampling.UpsampleByNothing, 'layers')
UpsampleByRepeat = _register(resampling.UpsampleByRepeat, 'layers')
UpsampleByLinear = _register(resampling.UpsampleByLinear, 'layers')
UpsampleByAttention = _register(resampling.UpsampleByAttention, 'layers')
Hourglass = _register(hourglass.Hourglass, 'models')
TraxLanguageModel = _register(trax_language_model.TraxLanguageModel, 'models')

ByteCorpus = _register(byte_corpus.ByteCorpus, 'data')
Enwik8 = _register(enwik8.Enwik8, 'data')
Text8 = _register(enwik8.Text8, 'data')
Wiki40b = _register(wiki40b.Wiki40b, 'data')
Cifar10 = _register(cifar10.Cifar10, 'data')
VanDenOordImagenet = _register(imagenet.VanDenOordImagenet, 'data')
ChrabaszczImagenet = _register(imagenet.ChrabaszczImagenet, 'data')
ImageFolder = _register(image_folder.ImageFolder, 'data')
RandomWindows = _register(batches.RandomWindows, 'data')
Epochs = _register(batches.Epochs, 'data')
WarmupCosine = _register(schedules.WarmupCosine, 'training')
WarmupStableDecay = _register(schedules.WarmupStableDecay, 'training')
LevelRates = _register(level_rates.LevelRates, 'training')
CosineEnd = _register(schedules.CosineEnd, 'training')
fit = _register(fit_lib.fit, 'training', denylist=['output_dir', 'callbacks'])
compare = _register(compare_lib.compare, 'training', denylist=['output_dir'])
