"""Compiles sampling's programs, the prompt's pass and the loop over tokens, for devices that may be absent.

    python benchmarks/sampling_program.py --config_file gin/paper/enwik8.gin --topology h100 [--batch 8] [--prompt 1024]

KV caches have a capacity of `--room` tokens, by default the configuration's length. No array is allocated. Bytes are
the compiler's own count, and temporaries those of the larger of the two programs.
"""

import argparse
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from trax_hourglass import registry  # Registers with gin.  pylint: disable=unused-import, wrong-import-position
from trax_hourglass.inference import decoding  # pylint: disable=wrong-import-position
from trax_hourglass.planning import topologies  # pylint: disable=wrong-import-position
from trax_hourglass.runtime import gin_config  # pylint: disable=wrong-import-position
from trax_hourglass.runtime import sharding  # pylint: disable=wrong-import-position
from trax_hourglass.training.settings import Settings  # pylint: disable=wrong-import-position

import jax  # pylint: disable=wrong-import-position
import numpy as np  # pylint: disable=wrong-import-position
from trax import shapes  # pylint: disable=wrong-import-position

PIECE = 32  # Tokens that the loop returns at a time.


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--config_file', action='append', default=[], help='gin file')
  parser.add_argument('--config', action='append', default=[], help='gin binding')
  parser.add_argument('--topology', required=True, help='platform to compile for, as in `plan`')
  parser.add_argument('--batch', type=int, default=8, help='sequences sampled in parallel')
  parser.add_argument('--prompt', type=int, default=0, help='prompt length in tokens')
  parser.add_argument('--room', type=int, help='KV-cache capacity in tokens')
  parser.add_argument('--dtype', default='bfloat16', help='of weights, activations and caches')
  return parser.parse_args()


def programs(settings, args):
  """Returns {name: (function to lower, shapes of its arguments)} of a sampler's two programs."""
  model = settings.model(mode='predict', max_length=args.room or settings.length)
  samplers = []

  def start():
    model.init(shapes.ShapeDtype((args.batch, 1), np.int32))
    sampler = decoding.Sampler(model, piece=PIECE, dtype=args.dtype)
    samplers.append(sampler)
    # pylint: disable=protected-access
    return sampler._weights, sampler._weights_of_steps, sampler._cast(model.start(args.batch))

  weights, of_steps, state = jax.eval_shape(start)
  sampler, = samplers
  of = lambda *shape, dtype=np.int32: jax.ShapeDtypeStruct(shape, dtype)
  keys = of(args.batch, 2, dtype=np.uint32)
  # pylint: disable=protected-access
  first = (weights, state, of(args.batch, args.prompt + 1), keys, of(args.batch))
  carry, *_ = jax.eval_shape(sampler._first, *first)
  loop = (of_steps, carry, keys, of(args.batch, PIECE), of(), of())
  return {'prompt': (sampler._first, first), 'loop': (sampler._more, loop)}


def main():
  """Prints one JSON object."""
  args = parse_arguments()
  gin_config.parse_gin(args.config_file, args.config)
  topologies.prepare(args.topology, 1)
  mesh = topologies.mesh(args.topology, 1)
  everywhere, settings, results = sharding.everywhere(mesh), Settings.read(), {}
  with sharding.divided(mesh):
    found = programs(settings, args)
    for name, (function, arguments) in found.items():
      on_mesh = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), arguments)
      lowered, started = function.lower(*on_mesh), time.perf_counter()
      compiled = lowered.compile()
      memory = compiled.memory_analysis()
      results[name] = {'temporary_bytes': memory.temp_size_in_bytes, 'argument_bytes': memory.argument_size_in_bytes,
                       'device_bytes': memory.argument_size_in_bytes + memory.temp_size_in_bytes +
                                       memory.output_size_in_bytes - memory.alias_size_in_bytes,
                       'compile_seconds': time.perf_counter() - started}
  _, chip, _ = topologies.chip(args.topology)
  most = max(result['device_bytes'] for result in results.values())
  print(json.dumps({'topology': args.topology, 'batch_size': args.batch, 'programs': results, 'device_bytes': most,
                    'temporary_bytes': max(result['temporary_bytes'] for result in results.values()),
                    'memory_bytes': chip.memory_bytes, 'fits': not chip.memory_bytes or most <= chip.memory_bytes,
                    'compile_seconds': sum(result['compile_seconds'] for result in results.values())}))


if __name__ == '__main__':
  main()
