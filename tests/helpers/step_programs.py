"""Compiles steps for several virtual devices and lists their collectives: a child's `main([])` or `main(['all'])`."""

import json

import jax
import jax.numpy as jnp
from trax import layers as tl
from trax import optimizers

import trax_hourglass as th
from trax_hourglass.planning import program_text
from trax_hourglass.planning import step_program
from trax_hourglass.runtime import sharding

B, L = 16, 12  # No weight has an axis of these sizes.


class Settings:
  """Holds the part of training.settings.Settings that a StepProgram reads."""

  batch_size, length, n_steps, loss_chunk = B, L, 1, None

  def __init__(self, dtype='float32', accumulate=1, shard_weights=False, **model):
    self.dtype, self.accumulate, self.shard_weights, self._model = dtype, accumulate, shard_weights, model
    self.optimizer = optimizers.Adam(1e-2)

  def model(self, mode):
    """Returns a small model with a stack, and by default with resampling by attention."""
    return th.Hourglass(**{'hierarchy': '0@1 2@3 0@1', 'd_model': 32, 'd_ff': 64, 'n_heads': 2, 'vocab_size': 40,
                           'dropout': 0.1, **self._model}, mode=mode)


def gathered_whole(spec, tokens_per_vector):
  """Replaces a block's attention by one with a planted fault: each device gathers all rows of its activations."""
  del spec, tokens_per_vector
  mesh = sharding.over_devices()
  whole = lambda x: jax.lax.with_sharding_constraint(jnp.cumsum(jax.lax.with_sharding_constraint(
      x, sharding.everywhere(mesh)), axis=0), sharding.along(mesh, 0))
  return tl.Fn('Whole', whole)


def facts(settings):
  """Returns facts of a step for all devices: collectives, arrays that move, bytes per device, shapes of weights."""
  program = step_program.StepProgram(settings, sharding.over_devices())
  compiled = program.traced().lower().compile()
  found = program_text.instructions(compiled.as_text())
  arrays = {}
  for one in program_text.moving(found):
    arrays.setdefault(one.operation, []).extend(shape for _, shape in one.arrays)
  memory = compiled.memory_analysis()
  return {'collectives': program_text.collectives(found), 'arrays': arrays,
          'argument_bytes': memory.argument_size_in_bytes, 'temporary_bytes': memory.temp_size_in_bytes,
          'weights': [leaf.shape for leaf in jax.tree.leaves(program.weights)]}


def main(arguments):
  """Prints the facts of steps by name: data parallel, FSDP, and FSDP with a fault planted."""
  made = {'data parallel': {}, 'fsdp': {'shard_weights': True},
          'planted': {'shard_weights': True, 'hierarchy': '1@1', 'vanilla_attention': gathered_whole}}
  if arguments == ['all']:
    made |= {'three stacks': {'shard_weights': True, 'hierarchy': '1@1 2@3 1@1'},
             'all kept': {'shard_weights': True, 'recompute': 'none'},
             'in parts': {'shard_weights': True, 'dtype': 'bfloat16', 'accumulate': 2},
             'words': {'shard_weights': True, 'shortening': th.ShortenAtBoundaries, 'boundaries': th.EndOfWord,
                       'upsampling': th.UpsampleFromBoundaries, 'vocab_size': 256, 'd_model': (32, 64)}}
  print(json.dumps({name: facts(Settings(**options)) for name, options in made.items()}))
