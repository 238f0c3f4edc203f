"""Kills training at random moments, until it has survived that often, and compares with a run that was never killed.

    python tests/crash.py [--kills 50] [--seed 0] [--devices N] [--resume_devices M]

Real processes of `python -m trax_hourglass.train` are ended by SIGKILL: at any moment, within a step, while a checkpoint is
written, within an evaluation; or asked to stop by SIGTERM or Ctrl-C, which they must answer by 143 or 130. The same command
then goes on. Each finished run must have the weights, optimizer slots and logged losses of the unkilled run, bit by bit, in
TensorBoard every point once, and the same checkpoints, unless it was asked to stop, which saves one more.

With --resume_devices a run goes on with M virtual devices and with N by turns, and is equal up to rounding, since sums
over devices are added in another order: losses differ by 1e-5 at most, slots, as one long vector, by 1e-4 of its length,
weights by 2e-2. Softmax does not depend on the biases of keys, so their gradients are rounding and nothing else, which Adam
makes as large as any other: they differ altogether.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

N_STEPS = 240
MOMENTS = 'any', 'step', 'saving', 'evaluating', 'asked'
LOSSES, LENGTHS = 1e-5, {'weights': 2e-2, 'slots': 1e-4}  # What may differ with other devices, see above.


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
  """Waits for a moment and kills; returns whether there was anything to kill.

  Raises:
    RuntimeError: it was asked to stop and did not answer as it should.
  """
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
    if there and moment in ('saving', 'evaluating'):
      end = time.monotonic() + generator.uniform(0, 0.05)
      training.wait_for(lambda: time.monotonic() > end)
  else:
    there = False
  alive = there and training.process.poll() is None
  if moment == 'asked' and alive:
    number = generator.choice((signal.SIGTERM, signal.SIGINT))
    training.process.send_signal(number)
    code = training.process.wait()
    is_done = (training.output_dir / 'checkpoints' / str(N_STEPS)).exists()
    if code != 128 + number and not (is_done and code in (0, -number)):  # It may be past all that there was to do.
      raise RuntimeError(f'{number!r} was answered by {code}: {training.said()[-3000:]}')
    return code != 0
  training.kill()
  return alive


def outcome(output_dir):
  """Returns what two runs must have in common: (arrays, losses in the notes, and in TensorBoard, (steps kept, the best))."""
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


def differences(found, expected, is_near=False):
  """Returns what differs, in words; with `is_near`, by more than rounding does."""
  import numpy as np  # pylint: disable=g-import-not-at-top
  if is_near:
    flat = lambda values: np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in values])
    vectors = {part: [flat(outcome[0][part]) for outcome in (found, expected)] for part in LENGTHS}
    said = [part for part, (x, y) in vectors.items() if np.linalg.norm(x - y) > LENGTHS[part] * np.linalg.norm(y)]
    near = lambda x, y: [step for step, _ in x] == [step for step, _ in y] and np.allclose(
        [value for _, value in x], [value for _, value in y], rtol=LOSSES, atol=0)
    losses = {(part, name): values for part, of_part in expected[1].items() for name, values in of_part.items()
              if name.startswith('metrics/')}
    return said + [f'{what} {name}' for (part, name), values in losses.items()
                   for what, x in (('history', found[1][part][name]), ('events', found[2][part, name]))
                   if not near(x, values)]
  said = [f'{part} {number}' for part, of_part in expected[0].items() for number, x in enumerate(of_part)
          if x.tobytes() != np.asarray(found[0][part][number]).tobytes()]
  return said + [what for what, a, b in zip(('history', 'events', 'checkpoints'), found[1:], expected[1:]) if a != b]


def crash(n_kills, seed, folder, environment, *others, moments=MOMENTS):
  """Kills and resumes; returns ({moment: kills}, number of runs, what differed).

  Args:
    n_kills: kills to survive; processes that are asked to stop come on top.
    seed: of the moments.
    folder: where runs go.
    environment: of the processes.
    *others: environments with other devices, which a run takes by turns when it goes on.
    moments: of MOMENTS, those to kill at.

  Raises:
    RuntimeError: a process failed by itself.
  """
  print(f'seed {seed}', file=sys.stderr, flush=True)
  environments = environment, *others
  generator = random.Random(seed)
  unkilled = Training(folder / 'unkilled', environment)
  if unkilled.process.wait():
    raise RuntimeError(unkilled.said())
  whole_seconds = time.monotonic() - unkilled.started
  expected = outcome(folder / 'unkilled')
  kills, n_runs, differing = dict.fromkeys(moments, 0), 0, []
  n_killed = lambda: sum(n for moment, n in kills.items() if moment != 'asked')
  n_starts, was_asked = 0, False
  while True:
    run = folder / f'run{n_runs}'
    moment = generator.choice(moments)
    training = Training(run, environments[n_starts % len(environments)])
    n_starts += 1
    if n_killed() < n_kills:
      killed = kill_at(moment, training, generator, whole_seconds)
      kills[moment] += killed
      if killed:
        was_asked |= moment == 'asked'
        print(f'{n_killed()}: {moment}, {len(list((run / "checkpoints").glob("*")))} checkpoints there',
              file=sys.stderr, flush=True)
        continue
      code = training.process.returncode
    else:
      code = training.process.wait()
    if code:
      raise RuntimeError(f'{run} ended with code {code}: {training.said()[-3000:]}')
    n_runs += 1
    different = differences(outcome(run), expected, is_near=bool(others))
    if was_asked:
      different = [what for what in different if what != 'checkpoints']
    n_starts, was_asked = 0, False
    differing += [f'{run.name}: {what}' for what in different]
    print(f'{run.name} finished: {"equal" if not different else different}', file=sys.stderr, flush=True)
    shutil.rmtree(run)
    if n_killed() >= n_kills:
      return kills, n_runs, differing


def main():
  """Prints what became of the kills; exit code 1 if a run differs."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--kills', type=int, default=50)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--devices', type=int, default=1, help='virtual CPU devices')
  parser.add_argument('--resume_devices', type=int, help='virtual CPU devices that a run goes on with, by turns')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    # Compiled code is kept between the processes: they get to training sooner.
    environments = [
        {'JAX_COMPILATION_CACHE_DIR': f'{folder}/compiled', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
         'XLA_FLAGS': f'--xla_force_host_platform_device_count={n_devices}'}
        for n_devices in (args.devices, args.resume_devices) if n_devices]
    kills, n_runs, differing = crash(args.kills, args.seed, pathlib.Path(folder), *environments)
  equal = f'equal to the unkilled run {"up to rounding" if args.resume_devices else "bit by bit"}'
  print(f'{args.kills} kills ({", ".join(f"{n} {moment}" for moment, n in kills.items())}) in {n_runs} runs, '
        f'seed {args.seed}: {differing or f"all {equal}"}')
  raise SystemExit(bool(differing))


if __name__ == '__main__':
  main()
