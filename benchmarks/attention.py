"""Measures relative attention alone, forward and backward: by form and tile size, and as one plain L x L matrix.

    python benchmarks/attention.py [--json] [--length 2046] [--factor 3] [--rate 0.1] [--dtype float32]
    python benchmarks/attention.py --topology v5e [--form tiles]      compiled for that platform, without the device

The three uses are within a level, shortening and upsampling by the factor. Runs alternate between the variants, and
seconds are medians. Bytes are the compiler's own count of temporaries. With `--topology` (see `plan`) nothing runs:
rows have bytes, and on TPUs estimated cycles.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from trax_hourglass.comparison.report import markdown  # pylint: disable=wrong-import-position
from trax_hourglass.ops import attention  # pylint: disable=wrong-import-position
from trax_hourglass.ops import tiled_attention  # pylint: disable=wrong-import-position
from trax_hourglass.planning import program_text  # pylint: disable=wrong-import-position
from trax_hourglass.planning import topologies  # pylint: disable=wrong-import-position
from trax_hourglass.runtime import sharding  # pylint: disable=wrong-import-position

import jax  # pylint: disable=wrong-import-position
import jax.numpy as jnp  # pylint: disable=wrong-import-position
import numpy as np  # pylint: disable=wrong-import-position

TILES = [(128, 256), (128, 512), (256, 256), (256, 512), (512, 512), (512, 1024)]


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--length', type=int, default=2046, help='vectors of the finer sequence')
  parser.add_argument('--factor', type=int, default=3)
  parser.add_argument('--batch', type=int, default=1)
  parser.add_argument('--n_heads', type=int, default=8)
  parser.add_argument('--head_width', type=int, default=64)
  parser.add_argument('--rate', type=float, default=0.1, help='dropout; the plain form has none')
  parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32')
  parser.add_argument('--runs', type=int, default=5)
  parser.add_argument('--topology', help='compile for this platform without running')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  return parser.parse_args()


def plain(q, k, v, e, c, l):
  """Computes attention within a level by its definition, with one matrix per head, for autodiff."""
  n = q.shape[1]
  content = jnp.einsum('bqhe,bkhe->bhqk', q + c, k)
  position = jnp.einsum('bqhe,she->bhqs', q + l, e[0])
  position = jnp.pad(position, ((0, 0),) * 3 + ((0, 1),)).reshape(*position.shape[:2], -1)
  position = position[..., n - 1:n - 1 + n * n].reshape(content.shape)
  scores = jnp.where(np.tril(np.ones((n, n), bool)), (content + position) * q.shape[-1]**-0.5, -1e9)
  return jnp.einsum('bhqk,bkhe->bqhe', jax.nn.softmax(scores), v)


def arguments(args, queries_per_group, keys_per_group):
  """Returns random arguments of `relative_attention`."""
  groups = args.length // max(queries_per_group, keys_per_group)
  n_queries, n_keys = groups * queries_per_group, groups * keys_per_group
  shape = (args.n_heads, args.head_width)
  shapes = [(args.batch, n_queries), (args.batch, n_keys), (args.batch, n_keys), (queries_per_group, n_keys), (), ()]
  random = np.random.RandomState(0)
  return [jnp.asarray(random.randn(*s, *shape), args.dtype) for s in shapes]


def compiled(function, arrays, mesh):
  """Returns the compiled gradient of the function's sum of squares, and its seconds, bytes and TPU cycles."""
  on_mesh = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.everywhere(mesh))
  gradient = jax.jit(jax.grad(lambda *a: (function(*a).astype(jnp.float32)**2).sum(), argnums=range(6)))
  with sharding.divided(mesh):
    lowered = gradient.lower(*map(on_mesh, arrays))
  started = time.perf_counter()
  program = lowered.compile()
  result = {'compile_seconds': time.perf_counter() - started,
            'temporary_bytes': program.memory_analysis().temp_size_in_bytes}
  if mesh.abstract_mesh.abstract_device.platform == 'tpu':
    result['estimated_cycles'] = program_text.cycles(program_text.instructions(program.as_text()))
  return program, result


def forms(args, platform):
  """Yields the variants to compile: name and function (arguments of `relative_attention`) -> output.

  Compile each variant before taking the next, since the tile size is a global setting.
  """
  def form(name):
    return lambda *a: attention.relative_attention(*a, rate=args.rate, key=jax.random.PRNGKey(0), form=name)

  # pylint: disable=protected-access
  for tile in TILES if platform == 'cpu' else [(tiled_attention._BLOCK_QUERIES, tiled_attention._SPAN_KEYS)]:
    tiled_attention._BLOCK_QUERIES, tiled_attention._SPAN_KEYS = tile
    tiled_attention.attend.clear_cache()
    yield f'tiles of {tile[0]} x {tile[1]}', form('tiles')
  if platform == 'tpu':
    yield 'Pallas kernels', form('tpu')
  if platform == 'gpu' and args.rate == 0.0 and args.dtype == 'bfloat16':
    yield 'cuDNN', form('cudnn')


def measure(args, mesh):
  """Returns one dictionary of results per use and variant."""
  rows = []
  uses = {'within a level': (1, 1), 'shortening': (1, args.factor), 'upsampling': (args.factor, 1)}
  with sharding.divided(mesh):
    platform = sharding.platform()
  for use, geometry in uses.items():
    arrays = arguments(args, *geometry)
    wanted = itertools.chain(forms(args, platform), [('one matrix', plain)] if geometry == (1, 1) else [])
    variants = []
    for name, function in wanted:
      try:
        variants.append((name, *compiled(function, arrays, mesh)))
      except Exception as error:  # Does not fit the device; the others continue.  pylint: disable=broad-except
        rows.append({'use': use, 'variant': name, 'left_out': ' '.join(str(error).split())[:80]})
    seconds = [[] for _ in variants]
    for _ in range(0 if args.topology else args.runs + 1):
      for (_, gradient, _), times in zip(variants, seconds):
        started = time.perf_counter()
        jax.block_until_ready(gradient(*arrays))
        times.append(time.perf_counter() - started)
    rows += [{'use': use, 'variant': name, **({'seconds': statistics.median(times[1:])} if times else {}), **result}
             for (name, _, result), times in zip(variants, seconds)]
  return rows


def main():
  """Prints the results."""
  args = parse_arguments()
  if args.topology:
    topologies.prepare(args.topology, 1)
  mesh = topologies.mesh(args.topology, 1) if args.topology else sharding.over_devices(1)
  rows = measure(args, mesh)
  device = f'{args.topology or jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}'
  if args.json:
    print(json.dumps({'device': device, 'settings': vars(args), 'rows': rows}))
    return
  columns = 'use', 'variant', 'seconds', 'compile_seconds', 'temporary_bytes', 'estimated_cycles', 'left_out'
  print(f'{device}; {vars(args)}\n')
  print(markdown(rows, columns))


if __name__ == '__main__':
  main()
