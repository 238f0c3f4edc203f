"""Compiles the step of every configuration of the paper for accelerators that may be absent, and keeps a table.

    python benchmarks/compiled.py --results docs/results/compiled.json [--only h100]     compiles the missing rows
    python benchmarks/compiled.py --results docs/results/compiled.json --table           prints the table as Markdown

The rows are Table 1's 15 hierarchies, each file of gin/paper, and the authors' own model in Trax's trainer. Two files
also have rows for their sampling programs. Each row is compiled in its own process (see `plan`), for one device. The
dtype is bfloat16, and float32 for the authors' model. A step that does not fit is also compiled with remat of whole
blocks, with gradient accumulation, and over several devices. Each row is written as soon as it is done, so a stopped
command resumes.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import time

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parent
sys.path.insert(0, str(ROOT))
TOPOLOGIES = 'h100', 'v5e'
ARRANGEMENTS = {'h100': (('h100', 2), ('h100', 4), ('h100', 8)),
                'v5e': (('v5e:2x2', 4), ('v5e:2x4', 8), ('v5e:4x4', 16), ('v5e:4x8', 32), ('v5e:8x8', 64))}
BFLOAT16 = '--config', "fit.dtype = 'bfloat16'"
# Hierarchy: gigabytes and steps per second of Table 1, on four Titan V.
TABLE_1 = {
    '6@1': (4.53, 0.95), '2@1 1@3 2@1': (4.41, 1.11), '2@1 4@4 2@1': (4.41, 1.10), '8@1': (5.75, 0.73),
    '2@1 4@3 2@1': (4.88, 1.00), '2@1 8@4 2@1': (4.98, 0.99), '2@1 1@2 4@4 1@2 2@1': (4.69, 0.86),
    '2@1 8@3 2@1': (5.50, 0.88), '10@1': (6.99, 0.56), '3@1 8@4 3@1': (6.14, 0.76), '12@1': (8.12, 0.47),
    '4@1 8@4 4@1': (7.20, 0.62), '2@1 16@3 2@1': (5.89, 0.71), '14@1': (9.35, 0.40), '5@1 8@2 5@1': (9.57, 0.45)}
CONFIGS = ('enwik8', 'enwik8_ablation', 'cifar10', 'imagenet32', 'wiki40b', 'imagenet64_local', 'imagenet64',
           'trax_enwik8', 'trax_wiki40b', 'trax_cifar10', 'trax_imagenet64', 'trax_imagenet32')
# Placeholders for data files that a config requires but `plan` does not read.
DATA_FILES = {'trax_wiki40b': ('--config', "Wiki40b.sentencepiece = 'pieces.model'")}
SAMPLED = 'enwik8', 'imagenet32'
KEPT = ('batch_size', 'length', 'n_parameters', 'step_flops', 'topology', 'n_devices', 'temporary_bytes',
        'argument_bytes', 'device_bytes', 'memory_bytes', 'fits', 'compile_seconds', 'lower_bound_seconds',
        'estimated_cycles', 'estimated_seconds', 'attention')
# Matches the messages of `plan` and of libtpu.
_NEEDS = re.compile(r'(?:it needs |Used |temporaries \()([\d.]+)([KMGT])\b')
_GIB = 2**30


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--results', type=pathlib.Path, required=True, help='JSON file of the rows')
  parser.add_argument('--only', default='', help='only rows whose name contains this')
  parser.add_argument('--table', action='store_true', help='compile nothing, print the rows as Markdown')
  return parser.parse_args()


def rows():
  """Yields (name, function that returns the row's result), most useful rows first."""
  for hierarchy in TABLE_1:
    yield f'Table 1, {hierarchy}, h100', lambda h=hierarchy: planned(
        'enwik8_ablation', 'h100', ('--config', f"hierarchy = '{h}'"))
  for topology in TOPOLOGIES:
    for config in CONFIGS:
      yield f'{config}, {topology}', lambda c=config, t=topology: fitted(c, t)
    for config in SAMPLED:
      yield f'sampling {config}, {topology}', lambda c=config, t=topology: output_of(
          FOLDER / 'sampling_program.py', '--config_file', f'paper/{c}.gin', '--topology', t)
    for hierarchy in ('2@1 4@3 2@1', '2@1 8@3 2@1'):
      yield f'Trax {hierarchy}, {topology}', lambda h=hierarchy, t=topology: of_trax(h, t)


def planned(config, topology, more=(), n_devices=1):
  """Returns `plan`'s report on a step, or {'fits': False, 'device_bytes'} if the compiler runs out of memory."""
  return output_of('-m', 'trax_hourglass.plan', '--config_file', f'paper/{config}.gin', *BFLOAT16,
                   *DATA_FILES.get(config, ()), *more, '--topology', topology, '--n_devices', str(n_devices), '--json')


def fitted(config, topology):
  """Returns the step's result as configured and, if the step does not fit, the results of ways to make it fit."""
  result = planned(config, topology)
  if result['fits'] or 'error' in result:
    return result
  result['with'] = {"Hourglass.recompute = 'blocks'": planned(
      config, topology, ('--config', "Hourglass.recompute = 'blocks'"))}
  n = 2
  while n < result['device_bytes'] / memory_of(result, topology):
    n *= 2
  for parts in (n, 2 * n):
    found = result['with'][f'fit.accumulate = {parts}'] = planned(
        config, topology, ('--config', f'fit.accumulate = {parts}'))
    if found['fits']:
      break
  for arrangement, n_devices in ARRANGEMENTS[topology]:
    if n_devices >= n:
      found = result['with'][f'{n_devices} devices'] = planned(config, arrangement, (), n_devices)
      if found['fits']:
        break
  return result


def memory_of(result, topology):
  """Returns a device's memory in bytes, which results of failed compilations do not include."""
  from trax_hourglass.planning import topologies  # pylint: disable=g-import-not-at-top
  return result.get('memory_bytes') or topologies.chip(topology)[1].memory_bytes


def of_trax(hierarchy, topology):
  """Returns the result of the authors' model in Trax's trainer, float32, 8 x 2046.

  On GPUs, cuBLAS computes the matrix products: without a GPU for autotuning, XLA finds no tiles for some of them.
  """
  report = output_of(FOLDER / 'train_step.py', '--models', 'trax', '--hierarchy', hierarchy, '--topology', topology,
                     '--length', '2046', '--batch', '8', '--dropout', '0.15', '--json',
                     flags='--xla_gpu_enable_triton_gemm=false' if topology == 'h100' else '')
  if 'error' in report or 'models' not in report:
    return report
  result, memory = report['models']['trax'], memory_of({}, topology)
  needed = result['argument_bytes'] + result['temporary_bytes']
  return {**result, 'device_bytes': needed, 'memory_bytes': memory, 'fits': needed <= memory}


def output_of(*command, flags=''):
  """Runs a Python command with XLA flags and returns its JSON output, its reported memory need, or its error."""
  environment = {**os.environ, **({'XLA_FLAGS': flags} if flags else {})}
  ended = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False,
                         env=environment)
  if ended.stdout.strip():
    return json.loads(ended.stdout.strip().splitlines()[-1])
  found = _NEEDS.search(ended.stderr)
  if found:
    return {'fits': False, 'device_bytes': int(float(found[1]) * 2**(10 * ('KMGT'.index(found[2]) + 1)))}
  errors = [line for line in ended.stderr.splitlines() if re.match(r'[\w.]*Error: |plan: ', line)]
  return {'fits': False, 'error': ' '.join((errors or ended.stderr.splitlines() or [''])[-1].split())[:160]}


def kept(result):
  """Returns the part of a result that the file keeps."""
  few = {key: result[key] for key in (*KEPT, 'error', 'programs') if key in result}
  return {**few, 'with': {key: kept(other) for key, other in result['with'].items()}} if 'with' in result else few


def versions():
  """Returns {package: version} of the packages that affect the results."""
  found = {}
  for name in ('jax', 'jaxlib', 'libtpu', 'jax-cuda12-plugin'):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      pass
  return found


def compile_rows(path, only):
  """Compiles the rows missing from the file, and writes the file after each row."""
  results = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
  for name, function in rows():
    if only not in name or name in results:
      continue
    print(f'{name} ...', file=sys.stderr, flush=True)
    started = time.perf_counter()
    result = kept(function())
    results[name] = {**result, 'date': datetime.date.today().isoformat(), 'versions': versions()}
    print(f'{name}: {time.perf_counter() - started:.0f} s, fits: {result["fits"]} {result.get("error", "")}',
          file=sys.stderr, flush=True)
    path.write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')


def markdown(lines):
  """Returns rows of cells as a Markdown table; the first row holds the column names."""
  first, *others = [f'| {" | ".join(cells)} |' for cells in lines]
  return '\n'.join([first, '|' + '---|' * len(lines[0]), *others])


def gib(n_bytes):
  """Formats bytes as GiB with two decimals."""
  return f'{n_bytes / _GIB:.2f}'


def table_1(results):
  """Returns our compiled Table 1 beside the paper's memory and time per step."""
  base, base_memory, base_speed = results.get('Table 1, 8@1, h100'), *TABLE_1['8@1']
  lines = [('hierarchy', 'temporaries, GiB', 'of `8@1`', "paper's memory, of `8@1`", 'TFLOP per step', 'of `8@1`',
            "paper's time per step, of `8@1`", 'compile, s')]
  for hierarchy, (memory, speed) in TABLE_1.items():
    row = results.get(f'Table 1, {hierarchy}, h100')
    if row and base:
      lines.append((f'`{hierarchy}`', gib(row['temporary_bytes']),
                    f'{row["temporary_bytes"] / base["temporary_bytes"]:.2f}', f'{memory / base_memory:.2f}',
                    f'{row["step_flops"] / 1e12:.2f}', f'{row["step_flops"] / base["step_flops"]:.2f}',
                    f'{base_speed / speed:.2f}', f'{row["compile_seconds"]:.0f}'))
  return markdown(lines)


def fits_on(result):
  """Describes on which devices and with which settings a row fits."""
  if 'error' in result:
    return f'does not compile: {result["error"]}'
  if result['fits']:
    return 'yes'
  ways = [f'`{way}`' if '=' in way else way for way, found in result.get('with', {}).items() if found['fits']]
  return f'no; with {" or ".join(ways)}' if ways else 'no'


def others(results):
  """Returns the table of all other rows."""
  lines = [('step', 'device', 'B x L', 'temporaries, GiB', 'all, GiB', 'fits', 'TFLOP per step', 'at least, ms',
            'estimated, ms', 'compile, s')]
  for name, row in results.items():
    if not name.startswith('Table 1'):
      title, topology = name.rsplit(', ', 1)
      number = lambda key, scale, digits=0, row=row: f'{row[key] * scale:.{digits}f}' if row.get(key) else ''
      shape = f'{row["batch_size"]} x {row["length"]}' if 'length' in row else str(row.get('batch_size', ''))
      lines.append((title, topology, shape, *(gib(row[key]) if key in row else '' for key in (
          'temporary_bytes', 'device_bytes')), fits_on(row), number('step_flops', 1e-12, 2),
                    number('lower_bound_seconds', 1e3), number('estimated_seconds', 1e3), number('compile_seconds', 1)))
  filled = [i for i in range(len(lines[0])) if any(line[i] for line in lines[1:])]
  return markdown([[line[i] for i in filled] for line in lines])


def main():
  """Compiles rows or prints them."""
  args = parse_arguments()
  if args.table:
    results = json.loads(args.results.read_text(encoding='utf-8'))
    print(f'{table_1(results)}\n\n{others(results)}')
  else:
    compile_rows(args.results, args.only)


if __name__ == '__main__':
  main()
