"""Kills training at random moments, until it has survived that often, and compares with a run that was never killed.

    python tests/crash.py [--kills 50] [--seed 0] [--devices N]

Real processes of `python -m trax_hourglass.train` are ended by SIGKILL: at any moment, within a step, while a checkpoint is
written, within an evaluation. The same command then goes on. Each finished run must have the weights, optimizer slots and
logged losses of the unkilled run, bit by bit, and in TensorBoard every point once.
"""

import argparse
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

N_STEPS = 240
MOMENTS = 'any', 'step', 'saving', 'evaluating'
FIRST_STEP = f'step 1/{N_STEPS}'


def command(output_dir, *bindings):
  """Returns the command that trains, and that goes on."""
  flags = [flag for binding in ('batch_size = 4', *bindings) for flag in ('--config', binding)]
  return [sys.executable, '-m', 'trax_hourglass.train', '--config_file', str(ROOT / 'tests' / 'tiny.gin'), '--output_dir',
          str(output_dir), '--config', f'n_steps = {N_STEPS}', '--config', 'fit.checkpoint_every = 7', '--config',
          'fit.eval_every = 10', '--config', 'fit.eval_batches = 20', *flags]


class Training:
  """A training process."""

  def __init__(self, output_dir, environment, *bindings):
    self.output_dir = pathlib.Path(output_dir)
    self._errors = tempfile.NamedTemporaryFile('w+', suffix='.stderr')
    self.started = time.monotonic()
    self.process = subprocess.Popen(command(output_dir, *bindings), stdout=subprocess.DEVNULL, stderr=self._errors,
                                    cwd=ROOT, env={**os.environ, **environment})

  def said(self):
    """Returns what it has printed to stderr."""
    return pathlib.Path(self._errors.name).read_text()

  def wait_for(self, happened):
    """Returns whether something happened before the process ended."""
    while self.process.poll() is None:
      if happened():
        return True
      time.sleep(0.001)
    return False

  def kill(self):
    """Ends it without warning."""
    self.process.kill()
    self.process.wait()

  def trains(self):
    """Whether it has made a step."""
    return 'tokens/s' in self.said() or 'compiled in' in self.said()


def size_of_events(folder):
  """Returns the bytes of TensorBoard's files."""
  return sum(path.stat().st_size for path in folder.glob('events*')) if folder.exists() else 0


def kill_at(moment, training, generator, whole_seconds):
  """Waits for a moment and kills; returns whether there was anything to kill."""
  if moment == 'any':
    end = time.monotonic() + generator.uniform(0, whole_seconds)
    there = training.wait_for(lambda: time.monotonic() > end)
  elif training.wait_for(training.trains):
    end = time.monotonic() + generator.uniform(0, 1)
    there = training.wait_for(lambda: time.monotonic() > end)
    if moment == 'saving':
      there = training.wait_for(lambda: any((training.output_dir / 'checkpoints').glob('*.unfinished*')))
    elif moment == 'evaluating':
      # The train part's points are written just before an evaluation begins.
      size = size_of_events(training.output_dir / 'train')
      there = training.wait_for(lambda: size_of_events(training.output_dir / 'train') > size)
    if there and moment != 'step':
      end = time.monotonic() + generator.uniform(0, 0.05)
      training.wait_for(lambda: time.monotonic() > end)
  else:
    there = False
  alive = there and training.process.poll() is None
  training.kill()
  return alive


def outcome(output_dir):
  """Returns what two runs must have in common: (arrays, losses in the notes, losses in TensorBoard, steps kept and the best)."""
  import numpy as np  # pylint: disable=g-import-not-at-top
  import jax  # pylint: disable=g-import-not-at-top
  from trax_hourglass import checkpoints  # pylint: disable=g-import-not-at-top
  from trax_hourglass import mesh  # pylint: disable=g-import-not-at-top
  import test_training  # pylint: disable=g-import-not-at-top
  store = checkpoints.Store(output_dir)
  step = store.newest_sound()
  notes = store.notes(step)
  everywhere = mesh.everywhere(mesh.over_devices(1))
  like = {part: [jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere) for shape, dtype in of_part]
          for part, of_part in notes['shapes'].items()}
  arrays = jax.tree.map(np.asarray, store.restore(step, like))
  timed = 'training/steps per second'
  history = {part: {name: values for name, values in of_part.items() if name != timed}
             for part, of_part in notes['history']['_values'].items()}
  events = {(part, name): test_training.events(pathlib.Path(output_dir), name, part)
            for part, of_part in history.items() for name in of_part}
  return arrays, history, events, (store.steps(), store.best())


def differences(found, expected):
  """Returns what differs, in words."""
  import numpy as np  # pylint: disable=g-import-not-at-top
  said = [f'{part} {number}' for part, of_part in expected[0].items() for number, x in enumerate(of_part)
          if x.tobytes() != np.asarray(found[0][part][number]).tobytes()]
  return said + [what for what, a, b in zip(('history', 'events', 'checkpoints'), found[1:], expected[1:]) if a != b]


def crash(n_kills, seed, folder, environment):
  """Kills and resumes; returns {moment: kills} and what differed.

  Args:
    n_kills: kills to survive.
    seed: of the moments.
    folder: where runs go.
    environment: of the processes.

  Raises:
    RuntimeError: a process failed by itself.
  """
  generator = random.Random(seed)
  unkilled = Training(folder / 'unkilled', environment)
  if unkilled.process.wait():
    raise RuntimeError(unkilled.said())
  whole_seconds = time.monotonic() - unkilled.started
  expected = outcome(folder / 'unkilled')
  kills, n_runs, differing = dict.fromkeys(MOMENTS, 0), 0, []
  while True:
    run = folder / f'run{n_runs}'
    moment = generator.choice(MOMENTS)
    training = Training(run, environment)
    if sum(kills.values()) < n_kills:
      killed = kill_at(moment, training, generator, whole_seconds)
      kills[moment] += killed
      if killed:
        print(f'{sum(kills.values())}: killed ({moment}), {len(list((run / "checkpoints").glob("*")))} checkpoints there',
              file=sys.stderr, flush=True)
        continue
      code = training.process.returncode
    else:
      code = training.process.wait()
    if code:
      raise RuntimeError(f'{run} ended with code {code}: {training.said()[-3000:]}')
    n_runs += 1
    different = differences(outcome(run), expected)
    differing += [f'{run.name}: {what}' for what in different]
    print(f'{run.name} finished: {"equal" if not different else different}', file=sys.stderr, flush=True)
    shutil.rmtree(run)
    if sum(kills.values()) >= n_kills:
      return kills, n_runs, differing


def main():
  """Prints what became of the kills; exit code 1 if a run differs."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--kills', type=int, default=50)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--devices', type=int, default=1, help='virtual CPU devices')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    # Compiled code is kept between the processes: they get to training sooner.
    environment = {'JAX_COMPILATION_CACHE_DIR': f'{folder}/compiled', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
                   'XLA_FLAGS': f'--xla_force_host_platform_device_count={args.devices}'}
    kills, n_runs, differing = crash(args.kills, args.seed, pathlib.Path(folder), environment)
  print(f'{sum(kills.values())} kills ({", ".join(f"{n} {moment}" for moment, n in kills.items())}) in {n_runs} runs: '
        f'{"all equal to the unkilled run, bit by bit" if not differing else differing}')
  raise SystemExit(bool(differing))


if __name__ == '__main__':
  main()
