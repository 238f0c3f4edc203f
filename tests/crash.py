"""Kills training at random moments a number of times, and compares with a run that was never killed.

    python tests/crash.py [--kills 50] [--seed 0] [--devices N] [--resume_devices M]

Real processes of `python -m trax_hourglass.train` are ended by SIGKILL: at any moment, within a step, while a
checkpoint is written, within an evaluation; or asked to stop by SIGTERM or Ctrl-C, which they must answer by 143 or
130. The same command then goes on. Each finished run must have the weights, optimizer slots and logged losses of the
unkilled run, bit by bit, in TensorBoard every point once, and the same checkpoints, unless it was asked to stop, which
saves one more.

With --resume_devices a run goes on with M virtual devices and with N by turns, and is equal up to rounding; how near
that is stands in helpers/outcomes.py.
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
sys.path.insert(0, str(ROOT))

from tests.helpers import outcomes  # pylint: disable=wrong-import-position

N_STEPS = 240
MODEL = ()  # Bindings that make another one.
MOMENTS = 'any', 'step', 'saving', 'evaluating', 'asked'


def arguments_of(output_dir):
  """Returns the arguments of the command that trains and resumes."""
  bindings = ('batch_size = 4', f'n_steps = {N_STEPS}', 'fit.checkpoint_every = 7', 'fit.eval_every = 10',
              'fit.eval_batches = 20', *MODEL)
  return ['--config_file', str(ROOT / 'tests' / 'tiny.gin'), '--output_dir', str(output_dir),
          *(flag for binding in bindings for flag in ('--config', binding))]


def start_training(arguments, stderr, variables):
  """Starts a process of `python -m trax_hourglass.train`.

  Args:
    arguments: its command line.
    stderr: path of the file for what it says.
    variables: of its environment, beside those of this process.
  """
  with open(stderr, 'wb') as file:
    return subprocess.Popen([sys.executable, '-m', 'trax_hourglass.train', *arguments], stdout=subprocess.DEVNULL,
                            stderr=file, cwd=ROOT, env={**os.environ, **variables})


class Training:
  """Holds a training process."""

  def __init__(self, output_dir, environment, start):
    self.output_dir = pathlib.Path(output_dir)
    self._errors = tempfile.NamedTemporaryFile('w+', suffix='.stderr')
    self.started = time.monotonic()
    self.process = start(arguments_of(output_dir), self._errors.name, environment)

  def said(self):
    """Returns the process's stderr so far."""
    return pathlib.Path(self._errors.name).read_text()

  def wait_for(self, happened):
    """Returns True once a condition holds, False if the process ends first."""
    while self.process.poll() is None:
      if happened():
        return True
      time.sleep(0.001)
    return False

  def kill(self):
    """Kills the process."""
    self.process.kill()
    self.process.wait()

  def trains(self):
    """Returns True if the process has made a step."""
    return 'tokens/s' in self.said() or 'compiled in' in self.said()


def size_of_events(folder):
  """Returns the bytes of TensorBoard's files."""
  return sum(path.stat().st_size for path in folder.glob('events*')) if folder.exists() else 0


def kill_at(moment, training, generator, whole_seconds):
  """Waits for a moment and kills; returns False if the process had ended.

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


def crash(n_kills, seed, folder, environment, *others, moments=MOMENTS, start=start_training):
  """Kills and resumes; returns ({moment: kills}, number of runs, what differed).

  Args:
    n_kills: kills to survive; processes that are asked to stop come on top.
    seed: of the moments.
    folder: where runs go.
    environment: of the processes.
    *others: environments with other devices, which a run takes by turns when it goes on.
    moments: of MOMENTS, those to kill at.
    start: function as `start_training` that starts a process.

  Raises:
    RuntimeError: a process failed by itself.
  """
  print(f'seed {seed}', file=sys.stderr, flush=True)
  environments = environment, *others
  generator = random.Random(seed)
  unkilled = Training(folder / 'unkilled', environment, start)
  if unkilled.process.wait():
    raise RuntimeError(unkilled.said())
  whole_seconds = time.monotonic() - unkilled.started
  expected = outcomes.outcome(folder / 'unkilled')
  kills, n_runs, differing = dict.fromkeys(moments, 0), 0, []
  n_killed = lambda: sum(n for moment, n in kills.items() if moment != 'asked')
  n_starts, was_asked = 0, False
  while True:
    run = folder / f'run{n_runs}'
    moment = generator.choice(moments)
    training = Training(run, environments[n_starts % len(environments)], start)
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
    different = outcomes.differences(outcomes.outcome(run), expected, is_near=bool(others))
    if was_asked:
      different = [what for what in different if what != 'checkpoints']
    n_starts, was_asked = 0, False
    differing += [f'{run.name}: {what}' for what in different]
    print(f'{run.name} finished: {"equal" if not different else different}', file=sys.stderr, flush=True)
    shutil.rmtree(run)
    if n_killed() >= n_kills:
      return kills, n_runs, differing


def main():
  """Prints the results of the kills; exits with code 1 if a run differs."""
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
