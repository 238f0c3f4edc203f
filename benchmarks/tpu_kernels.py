"""Counts the bundles of attention's TPU kernels as libtpu schedules them, and checks our estimate of that count.

    pip install 'jax[tpu]'
    python benchmarks/tpu_kernels.py [--json] [--block 512] [--head_width 64] [--rate 0.15] [--dtype bfloat16]

A TPU core issues one bundle per cycle; waits for memory are not counted. No TPU is needed. The branches and loops of a
kernel's final program separate its parts, in the order of tpu_kernels.py. The count sums each part's bundles
times its executions. The script covers lengths of whole blocks, within a level.
"""

import argparse
import glob
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
sys.path.insert(0, ROOT)

_SMALL = 40  # Branches with fewer bundles belong to the pipeline that fetches blocks.


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--block', type=int, default=512, choices=[256, 512], help='groups per block')
  parser.add_argument('--n_blocks', type=int, default=4)
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--n_heads', type=int, default=8)
  parser.add_argument('--head_width', type=int, default=64)
  parser.add_argument('--rate', type=float, default=0.15)
  parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='bfloat16')
  parser.add_argument('--topology', default='v5e')
  parser.add_argument('--compile_only', action='store_true', help='internal: set when the script runs itself')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  return parser.parse_args()


def layout_of(args):
  """Returns the kernels' layout with the requested blocks, and the shape of the arrays."""
  import jax  # pylint: disable=g-import-not-at-top
  from trax_hourglass.ops import tpu_layout  # pylint: disable=g-import-not-at-top
  tpu_layout._BLOCKS = (args.block,)  # pylint: disable=protected-access
  shape = jax.ShapeDtypeStruct((args.batch, args.block * args.n_blocks, args.n_heads, args.head_width), args.dtype)
  return tpu_layout.Layout.of(shape, shape, None, 1, args.rate), shape


def compile_kernels(args):
  """Compiles attention and its gradient."""
  # pylint: disable=g-import-not-at-top
  import jax
  import jax.numpy as jnp
  from trax_hourglass.ops import attention
  from trax_hourglass.planning import topologies
  from trax_hourglass.runtime import sharding
  topologies.prepare(args.topology, 1)
  _, shape = layout_of(args)
  mesh = topologies.mesh(args.topology, 1)
  on = lambda *s: jax.ShapeDtypeStruct(s, args.dtype, sharding=sharding.everywhere(mesh))
  bias = on(*shape.shape[2:])
  function = lambda *arrays: attention.relative_attention(
      *arrays, rate=args.rate, key=jnp.zeros(2, jnp.uint32)).astype(jnp.float32).sum()
  with sharding.divided(mesh):
    jax.jit(jax.grad(function, argnums=range(6))).lower(
        *[on(*shape.shape)] * 3, on(1, *shape.shape[1:]), bias, bias).compile()


def parts(path):
  """Returns (bundles outside of large branches and loops, bundles of each of those in order) of a final program."""
  addresses, branches, loops, last, first = {}, [], [], 0, None
  with open(path, encoding='utf-8') as file:
    for line in file:
      if found := re.match(r'\s*(0x[0-9a-f]+)\s+(\w\w:)?', line):
        last = int(found[1], 16)
        if found[2] == 'LB:':
          first, loops = (last, loops) if first is None else (first, [*loops, last])
      for region in re.findall(r'Start/End empty region (\d+)', line):
        addresses[region] = last
      if found := re.search(r'sbr\.rel \((.*?)\) target = \$region(\d+)', line):
        branches.append((last, found[2]))
  bodies = [(start, addresses[region]) for start, region in branches
            if region in addresses and addresses[region] - start > _SMALL]
  bodies = [one for one in bodies if not any(one[0] < a and b <= one[1] for a, b in bodies)]
  return last - first - sum(end - start for start, end in bodies), [end - start for start, end in bodies]


def count(args, kernel, every_turn, bodies):
  """Returns the bundles of all iterations for one block of heads and one row of the batch."""
  blocks = args.n_blocks
  off_diagonal = blocks * (blocks - 1) // 2
  tile = sorted(bodies)[-2:]  # All strips of a diagonal tile, and the loop's body.
  diagonal, loop = (next(body for body in bodies if body in tile), [body for body in bodies if body in tile][-1])
  strips = args.block // 128
  others = sum(body for body in bodies if body not in tile)  # At most once per block of queries.
  return {'kernel': kernel, 'every_turn': every_turn, 'diagonal_tile': diagonal, 'other_tile': loop * strips // 2,
          'per_block_of_queries': others,
          'bundles': ((blocks + off_diagonal) * every_turn + blocks * (diagonal + others)
                      + off_diagonal * loop * strips // 2)}


def measure(args):
  """Returns one dictionary per kernel: parts, count and estimate."""
  layout, _ = layout_of(args)
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    environment = {**os.environ, 'LIBTPU_INIT_ARGS': f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'}
    subprocess.run([sys.executable, os.path.abspath(__file__), *sys.argv[1:], '--compile_only'], env=environment,
                   check=True, cwd=ROOT)
    for number, kernel in enumerate(('forward', 'backward')):
      dumps = glob.glob(os.path.join(folder, f'*attention_{kernel}*'))
      path, = [path for path in dumps if re.search(r'-\d+-final_bundles', path)]
      row = count(args, kernel, *parts(path))
      rows.append({**row, 'estimate': layout.bundles[number],
                   'of_all': row['bundles'] * layout.head_blocks * args.batch})
  return rows


def main():
  """Prints the counts."""
  args = parse_arguments()
  if args.compile_only:
    compile_kernels(args)
    return
  rows = measure(args)
  if args.json:
    print(json.dumps({'settings': vars(args), 'rows': rows}))
    return
  names = list(rows[0])
  print(f'| {" | ".join(names)} |\n|{"---|" * len(names)}')
  for row in rows:
    print(f'| {" | ".join(f"{row[name]:,}" if name != "kernel" else row[name] for name in names)} |')


if __name__ == '__main__':
  main()
