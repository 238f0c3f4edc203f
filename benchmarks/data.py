"""Measures the data pipeline: the speed of batches, their memory, and how long a step waits for a batch.

    python benchmarks/data.py [--json] [--gigabytes 10] [--steps 40] [--path FILE]

Training's iterators make batches on one core, from a file in the system's page cache. Speed includes reading,
conversion to int32, the weights and the vocabulary check. Processor time is measured, so that other work on the machine
does not count. Memory is the growth of the process while it reads random windows all over a sparse file of
`--gigabytes`. The growth with a memory map is measured for comparison. Steps are those of the quickstart's model on all
cores. A thread prefetches their batches or, for comparison, batches are made between the steps.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from trax_hourglass.runtime import trax_compat  # pylint: disable=unused-import, wrong-import-position

import jax  # pylint: disable=wrong-import-position
import numpy as np  # pylint: disable=wrong-import-position
from trax import layers as tl  # pylint: disable=wrong-import-position
from trax import optimizers  # pylint: disable=wrong-import-position
from trax import shapes  # pylint: disable=wrong-import-position

from trax_hourglass.data import batches  # pylint: disable=wrong-import-position
from trax_hourglass.data import corpus  # pylint: disable=wrong-import-position
from trax_hourglass.data import prefetch  # pylint: disable=wrong-import-position
from trax_hourglass import registry  # pylint: disable=wrong-import-position
from trax_hourglass.training import step  # pylint: disable=wrong-import-position

_IMAGE = 3 * 32 * 32  # Tokens.
_SPEED_SECONDS = 1.0  # Per measurement of speed.
_REPEATS = 5
# The quickstart's.
_MODEL = dict(hierarchy='1@1 3@3 1@1', d_model=128, d_ff=512, n_heads=4, dropout=0.0)
_BATCH, _LENGTH = 8, 255


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--gigabytes', type=float, default=10, help='size of the sparse file')
  parser.add_argument('--steps', type=int, default=40, help='measured steps of each kind')
  parser.add_argument('--path', help='file to read batches from; default: 100 MB of random bytes')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  return parser.parse_args()


def split(path, example_length=None):
  """Returns a file as a split of whole examples."""
  n = os.path.getsize(path)
  return corpus.Tokens([(path, 0, n - n % (example_length or 1))], example_length=example_length)


def megabytes_per_second(windows):
  """Returns the median and interquartile range of batch speed, in 10^6 tokens per processor second."""
  speeds = []
  for _ in range(_REPEATS):
    n, started = 0, time.process_time()
    while (seconds := time.process_time() - started) < _SPEED_SECONDS:
      n += next(windows)[0].size
    speeds.append(n / seconds / 1e6)
  low, median, high = statistics.quantiles(speeds, n=4)
  return {'megabytes_per_second': median, 'spread': high - low}


def speeds(path):
  """Measures the speed of each kind of batches on one core."""
  all_cores = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {min(all_cores)})
  try:
    text, images = split(path), split(path, _IMAGE)
    return {
        f'{kind.__name__} {batch} x {length} of {what}':
            megabytes_per_second(kind(data, batch, length, 0, 256))
        for kind in (batches.RandomWindows, batches.Epochs)
        for what, data, batch, length in (('text', text, 8, 2048), ('images', images, 64, _IMAGE))}
  finally:
    os.sched_setaffinity(0, all_cores)


def resident_bytes():
  """Returns this process's resident memory."""
  with open('/proc/self/statm') as f:
    return int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def growth(draw, n):
  """Returns the largest growth of the process in bytes during n calls of draw()."""
  before, most = resident_bytes(), 0
  for i in range(n):
    draw()
    if i % 500 == 0:
      most = max(most, resident_bytes() - before)
  return max(most, resident_bytes() - before)


def memory(n_bytes, folder):
  """Measures memory growth on a sparse file, read as in training and, for comparison, memory-mapped."""
  path = os.path.join(folder, 'sparse')
  with open(path, 'wb') as f:
    f.truncate(n_bytes)
  windows = prefetch.Prefetched(batches.RandomWindows(split(path), 8, 2048, 0, 256))
  n = 20_000
  read = growth(lambda: next(windows), n)
  windows.close()
  mapped, starts = np.memmap(path, np.uint8, 'r'), np.random.default_rng(0).integers(0, n_bytes - 2048, (n, 8))
  rows = iter(starts)
  in_map = growth(lambda: [mapped[start:start + 2048].sum() for start in next(rows)], n)
  return {'file_bytes': n_bytes, 'batches': n, 'read_growth_bytes': read, 'map_growth_bytes': in_map}


def waiting(path, n_steps):
  """Measures the share of training steps spent on waiting for batches."""
  model = tl.Serial(registry.Hourglass(256, **_MODEL), tl.WeightedCategoryCrossEntropy())
  plain = batches.RandomWindows(split(path), _BATCH, _LENGTH, 0, 256)
  model.init(shapes.signature(next(plain)))
  optimizer = optimizers.Adam(1e-3)
  optimizer.tree_init(model.weights)
  trainer = step.Trainer(model, optimizer)
  results = {}
  for name, stream in (('made between steps', plain), ('made ahead', prefetch.Prefetched(plain))):
    waited, seconds = [], []
    for number in range(n_steps + 2):
      started = time.perf_counter()
      batch = next(stream)
      came = time.perf_counter()
      loss, _ = trainer.one_step(batch, jax.random.PRNGKey(number), number, 1e-3)
      jax.block_until_ready((loss, trainer.slots))
      if number >= 2:  # The first ones compile.
        waited.append(came - started)
        seconds.append(time.perf_counter() - started)
    results[name] = {
        'step_seconds': statistics.median(seconds), 'waiting_microseconds': 1e6 * statistics.median(waited),
        'waiting_share': sum(waited) / sum(seconds)
    }
  stream.close()
  return results


def measure(args):
  """Returns all results as one dictionary."""
  with tempfile.TemporaryDirectory() as folder:
    path = args.path or os.path.join(folder, 'bytes')
    if not args.path:
      np.random.default_rng(0).integers(0, 256, 100_000_000, np.uint8).tofile(path)
    return {'cores': os.cpu_count(), 'machine': platform.machine(), 'python': platform.python_version(),
            'jax': jax.__version__, 'numpy': np.__version__, 'speed_on_one_core': speeds(path),
            'memory': memory(int(args.gigabytes * 1e9), folder), 'steps': waiting(path, args.steps)}


def table(report):
  """Returns the report as markdown."""
  lines = ['| batches | MB/s on one core | spread |', '|---|---|---|']
  lines += [f'| {name} | {row["megabytes_per_second"]:.0f} | {row["spread"]:.0f} |'
            for name, row in report['speed_on_one_core'].items()]
  memory_ = report['memory']
  lines += ['', f'{memory_["batches"]:,} batches of 8 x 2048 all over {memory_["file_bytes"] / 1e9:g} GB: resident '
                'memory '
            f'grew by {memory_["read_growth_bytes"] / 1e6:.1f} MB; by {memory_["map_growth_bytes"] / 1e6:.1f} MB with '
            'a memory map.', '',
            '| batches | step ms | waiting microseconds | share |', '|---|---|---|---|']
  lines += [f'| {name} | {1e3 * row["step_seconds"]:.0f} | {row["waiting_microseconds"]:.0f} | '
            f'{row["waiting_share"]:.2%} |'
            for name, row in report['steps'].items()]
  return '\n'.join(lines)


if __name__ == '__main__':
  arguments = parse_arguments()
  result = measure(arguments)
  print(json.dumps(result) if arguments.json else table(result))
