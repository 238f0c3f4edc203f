"""Hourglass, a hierarchical Transformer language model, on Trax and today's JAX.

Models and their parts (registered with gin on import):
  Hourglass, and the plug-ins Causal...Attention, TraxAttention, ShortenBy..., UpsampleBy...
Weights of the authors' implementation:
  interop.from_trax, interop.to_trax
Data, as corpora with splits:
  ByteCorpus, Enwik8, Text8, Wiki40b, Cifar10, VanDenOordImagenet, ChrabaszczImagenet, ImageFolder
Training and evaluation:
  fit, with RandomWindows or Epochs; run_directory.load, run_evaluation.evaluate, evaluation.score
Sampling, from models in mode 'predict':
  decoding.Sampler, decoding.Choice, decoding.score
"""

import sys

# `python -m trax_hourglass.COMMAND` imports this file first, with this name in argv[0]. Trax and TensorFlow take ten
# seconds to import, and a command should answer --help or complain about a flag before that.
if sys.argv[0] != '-m':
  from trax_hourglass.runtime import trax_compat  # Before anything else that imports Trax.
  from trax_hourglass.inference import decoding
  from trax_hourglass.inference import scoring
  from trax_hourglass.models import interop
  from trax_hourglass.registry import ByteCorpus
  from trax_hourglass.registry import CausalLocalAttention
  from trax_hourglass.registry import CausalRelativeAttention
  from trax_hourglass.registry import CausalRotaryAttention
  from trax_hourglass.registry import ChrabaszczImagenet
  from trax_hourglass.registry import Cifar10
  from trax_hourglass.registry import Enwik8
  from trax_hourglass.registry import Epochs
  from trax_hourglass.registry import fit
  from trax_hourglass.registry import Hourglass
  from trax_hourglass.registry import ImageFolder
  from trax_hourglass.registry import RandomWindows
  from trax_hourglass.registry import ShortenByAttention
  from trax_hourglass.registry import ShortenByAverage
  from trax_hourglass.registry import ShortenByLinear
  from trax_hourglass.registry import Text8
  from trax_hourglass.registry import TraxAttention
  from trax_hourglass.registry import UpsampleByAttention
  from trax_hourglass.registry import UpsampleByLinear
  from trax_hourglass.registry import UpsampleByNothing
  from trax_hourglass.registry import UpsampleByRepeat
  from trax_hourglass.registry import VanDenOordImagenet
  from trax_hourglass.registry import Wiki40b
  from trax_hourglass.training import evaluate_run
  from trax_hourglass.training import run_directory
