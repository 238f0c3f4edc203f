"""Provides the measured models with their trainers: ours, our flat baseline, and Trax's Hourglass in Trax's trainer."""

import argparse
import os
import resource
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from trax_hourglass.runtime import trax_compat  # pylint: disable=unused-import, wrong-import-position

import jax  # pylint: disable=wrong-import-position
import jax.numpy as jnp  # pylint: disable=wrong-import-position
import numpy as np  # pylint: disable=wrong-import-position
import trax  # pylint: disable=wrong-import-position
from trax import layers as tl  # pylint: disable=wrong-import-position
from trax import optimizers  # pylint: disable=wrong-import-position
from trax import shapes  # pylint: disable=wrong-import-position

from trax_hourglass.comparison.report import markdown  # pylint: disable=wrong-import-position, unused-import
from trax_hourglass.comparison.step_cost import machine  # pylint: disable=wrong-import-position, unused-import
from trax_hourglass.models import flops  # pylint: disable=wrong-import-position
from trax_hourglass.models import hierarchy as hierarchy_lib  # pylint: disable=wrong-import-position
from trax_hourglass import registry  # pylint: disable=wrong-import-position
from trax_hourglass.planning import program_text  # pylint: disable=wrong-import-position
from trax_hourglass.runtime import sharding  # pylint: disable=wrong-import-position
from trax_hourglass.training import step  # pylint: disable=wrong-import-position

NAMES = ('ours', 'flat', 'trax')


def add_flags(parser, d_model, d_ff, n_heads):
  """Adds the flags that define the models."""
  parser.add_argument('--hierarchy', default='2@1 4@3 2@1')
  parser.add_argument('--d_model', type=int, default=d_model)
  parser.add_argument('--d_ff', type=int, default=d_ff)
  parser.add_argument('--n_heads', type=int, default=n_heads)
  parser.add_argument('--dropout', type=float, default=0.1)
  parser.add_argument('--recompute', default='products', help='ours and flat only; see Hourglass.recompute')
  parser.add_argument('--attention_form', choices=['tiles', 'tpu', 'cudnn'],
                      help='ours and flat only; see Hourglass.attention_form')
  parser.add_argument('--dtype', default='float32', help="'float32' or 'bfloat16'; ours and flat only")
  parser.add_argument('--batch', type=int, default=1)
  parser.add_argument('--models', type=_names, default=','.join(NAMES), help='models to measure, comma-separated')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')


def _names(text):
  """Returns the text of --models if it names known models, each once."""
  names = text.split(',')
  if len(set(names)) < len(names) or not set(names) <= set(NAMES):
    raise argparse.ArgumentTypeError(f'{text!r}: give some of {",".join(NAMES)}')
  return text


def our_model(args, hierarchy):
  """Returns our Hourglass at the given hierarchy."""
  return registry.Hourglass(256, hierarchy, args.d_model, args.d_ff, args.n_heads, args.dropout,
                            recompute=args.recompute, attention_form=args.attention_form)


def flat_hierarchy(hierarchy):
  """Returns the flat hierarchy with the same number of blocks, without the resampling layers (one block each)."""
  return f'{sum(level.n_before + level.n_after for level in hierarchy_lib.parse(hierarchy))}@1'


def trax_model(args):
  """Returns the authors' Hourglass with the same sizes and the same layer types."""
  first, *inner, last = args.hierarchy.split()
  return trax.models.HourglassLM(
      256, args.d_model, args.d_ff, vanilla_layers=tuple(int(part.split('@')[0]) for part in (first, last)),
      hierarchy=' '.join(inner), n_heads=args.n_heads, dropout=args.dropout, mode='train')


class Subject:
  """Holds a model, its trainer and its measurements."""

  def __init__(self, name, args, length, mesh=None):
    """Initialises the model.

    Args:
      name: one of NAMES.
      args: the flags of `add_flags`.
      length: tokens of a sequence; for Trax's model a multiple of its factors.
      mesh: one device to compile the step for, which may be absent; None for the devices present.
    """
    self.name, self._mesh = name, mesh
    self.shape = args.batch, length
    tokens = np.random.RandomState(0).randint(0, 256, self.shape).astype(np.int32)
    self.batch = (tokens, tokens, np.ones(tokens.shape, np.float32))
    started = time.perf_counter()
    hierarchy = flat_hierarchy(args.hierarchy) if name == 'flat' else args.hierarchy
    self._model = trax_model(args) if name == 'trax' else our_model(args, hierarchy)
    model_with_loss = tl.Serial(self._model, tl.WeightedCategoryCrossEntropy())
    model_with_loss.init(shapes.signature(self.batch))
    optimizer = optimizers.Adam(4e-4, weight_decay_rate=0.0, b2=0.98, eps=1e-9)
    optimizer.tree_init(model_with_loss.weights)
    self.trainer = (optimizers.Trainer(model_with_loss, optimizer) if name == 'trax' else
                    step.Trainer(model_with_loss, optimizer, mesh, args.dtype))
    self.seconds = []
    self.result = {'parameters': sum(np.size(w) for w in jax.tree.leaves(self._model.weights)),
                   'init_seconds': time.perf_counter() - started}

  def compile(self):
    """Compiles the step ahead of time and records seconds, bytes and, for our models, FLOPs."""
    if self.name != 'trax':
      self.result['step_flops'] = flops.training_step(self._model, *self.shape)
    started = time.perf_counter()
    lowered = self._update().lower(*self._update_arguments())
    traced = time.perf_counter()
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    self.result.update(
        trace_seconds=traced - started,
        compile_seconds=time.perf_counter() - traced,
        temporary_bytes=memory.temp_size_in_bytes, argument_bytes=memory.argument_size_in_bytes)
    if self._mesh is not None and self._mesh.devices.flat[0].platform == 'tpu':
      self.result['estimated_cycles'] = program_text.cycles(program_text.instructions(compiled.as_text()))

  def _update(self):
    trainer = self.trainer
    return trainer.update if isinstance(trainer, step.Trainer) else jax.jit(trainer._accelerated_update_fn)

  def _update_arguments(self):
    trainer, rng = self.trainer, np.zeros(2, np.uint32)
    ours = isinstance(trainer, step.Trainer)
    model = trainer.model_with_loss if ours else trainer.accelerated_model_with_loss
    if ours and self._mesh is None:
      return trainer.arguments(self.batch, rng, 1, 4e-4)
    opt_params = trainer._opt_params
    arguments = (((model.weights, model.state, trainer.slots), self.batch, np.int32(1), opt_params, rng) if ours else
                 ((model.weights, trainer.slots), 1, opt_params, self.batch, model.state, rng))
    if self._mesh is None:
      return arguments
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.canonicalize_dtype(jnp.result_type(x)),
                                                       sharding=sharding.everywhere(self._mesh)), arguments)

  def step(self, number):
    """Runs and times one turn, which is one step on CPUs and several on accelerators."""
    started = time.perf_counter()
    for number in range(number * _together(), (number + 1) * _together()):
      loss, _ = self.trainer.one_step(self.batch, np.array([0, number], np.uint32), number, 4e-4)
    self.result['last_loss'] = float(loss)
    jax.block_until_ready(self.trainer.slots)
    self.seconds.append((time.perf_counter() - started) / _together())

  def summarise(self):
    """Adds times to the result, without the first turn, which compiles."""
    if len(self.seconds) > 1:
      middle = statistics.median(self.seconds[1:])
      self.result.update(step_seconds=middle, step_seconds_spread=max(self.seconds[1:]) - min(self.seconds[1:]),
                         tokens_per_second=self.shape[0] * self.shape[1] / middle,
                         steps_measured=(len(self.seconds) - 1) * _together())


def _together():
  """Returns the number of steps per turn: on an accelerator the host's latency would dominate a single step."""
  return 1 if jax.default_backend() == 'cpu' else 10


def peak_resident_bytes():
  """Returns the peak resident memory of this process so far, in bytes."""
  try:  # In `getrusage`, a process forked from a large one inherits its peak; here, it does not.
    with open('/proc/self/status', encoding='utf-8') as status:
      return next(1024 * int(line.split()[1]) for line in status if line.startswith('VmHWM'))
  except FileNotFoundError:  # Not Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_device_bytes():
  """Returns this process's peak memory on its first device in bytes, or None if JAX does not report it."""
  return (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use')


def matmul_flops_per_second(dtype):
  """Measures a large square matrix product 5 times and returns the best rate on this machine."""
  n = 2048 if jax.default_backend() == 'cpu' else 8192
  x = jnp.ones((n, n), dtype)
  product = jax.jit(jnp.matmul)
  product(x, x).block_until_ready()
  best = float('inf')
  for _ in range(5):
    started = time.perf_counter()
    product(x, x).block_until_ready()
    best = min(best, time.perf_counter() - started)
  return 2 * n**3 / best
