"""Tests faults of runs: the message and the run directory after signals, kills, damage and refused changes."""

import fcntl
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import gin
import numpy as np
import pytest

from tests import crash
from tests.helpers import processes
from tests.helpers import runs
from tests.helpers import outcomes
from tests.helpers import sampling
from trax_hourglass import train
from trax_hourglass.training import checkpoints
from trax_hourglass.training import checksums
from trax_hourglass.training import loop as loop_lib
from trax_hourglass.training import progress


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted run of 6 steps: (directory, result, outcome)."""
  directory = tmp_path_factory.mktemp('whole')
  result = runs.run(directory, *runs.LONG)
  return directory, result, outcomes.outcome(directory)


@pytest.fixture
def copy(whole, tmp_path):
  """A copy of that run to damage, with the checkpoints of steps 5 and 6 and the best one."""
  shutil.copytree(whole[0], tmp_path / 'run')
  return tmp_path / 'run'


def at_step(monkeypatch, step, action):
  """Calls `action` at the end of a step, once the previous checkpoint is written."""
  original = progress.TrainingProgress.on_step_end

  def on_step_end(self, now):
    original(self, now)
    if now == step:
      self._loop._record.store.wait()
      action()
  monkeypatch.setattr(progress.TrainingProgress, 'on_step_end', on_step_end)


def newest(directory):
  return max(checkpoints.Store(directory).steps())


@pytest.mark.parametrize('number, exception, step', [
    (signal.SIGTERM, SystemExit, 1), (signal.SIGUSR1, SystemExit, 6), (signal.SIGINT, KeyboardInterrupt, 5)])
def test_a_signal_saves_the_step_and_resume_is_exact(whole, tmp_path, monkeypatch, capfd, number, exception, step):
  with monkeypatch.context() as patched:
    at_step(patched, step, lambda: signal.raise_signal(number))
    with pytest.raises(exception) as stopped:
      runs.run(tmp_path, *runs.LONG)
  assert number == signal.SIGINT or stopped.value.code == 128 + number
  assert 'stopping after this step, which will be saved' in capfd.readouterr().err
  assert newest(tmp_path) == step
  result = runs.run(tmp_path, *runs.LONG)
  assert result.valid_bits_per_token == whole[1].valid_bits_per_token
  assert outcomes.differences(outcomes.outcome(tmp_path), whole[2]) == []


def test_a_second_ctrl_c_ends_at_once_during_a_checkpoint(tmp_path):
  """A second Ctrl-C ends a process at once, although its checkpoints take ten minutes."""
  arguments = ['--config_file', runs.TINY, '--output_dir', str(tmp_path / 'run')]
  for binding in (*runs.LONG, 'n_steps = 100000', 'fit.checkpoint_every = 100000', 'fit.eval_every = 100000'):
    arguments += ['--config', binding]
  process = processes.Command('trax_hourglass.train', *arguments, before='tests.helpers.hindrances:slow_checkpoints',
                              XLA_FLAGS=processes.QUICK)

  def wait_for(words):
    assert any(line.startswith(words) for line in process.stderr), process.wait()
  wait_for('step 1/')
  process.send_signal(signal.SIGINT)
  wait_for('stopping after this step, which will be saved; Ctrl-C again leaves at once')
  unfinished = tmp_path / 'run' / 'checkpoints'
  while not (unfinished.exists() and os.listdir(unfinished)):
    time.sleep(0.02)
  with pytest.raises(subprocess.TimeoutExpired):
    process.wait(1)
  process.send_signal(signal.SIGINT)
  assert process.wait(10) == 130
  said = process.stderr.read()
  assert said.strip() == 'aborted; nothing saved' and checkpoints.Store(tmp_path / 'run').steps() == []


def test_ctrl_c_saves_the_step_when_nobody_reads_stderr(tmp_path):  # Ctrl-C ends `tee` in `train 2>&1 | tee log`.
  process = processes.Command('trax_hourglass.train', '--config_file', runs.TINY, '--output_dir', str(tmp_path / 'run'),
                              '--config', 'n_steps = 1000000', XLA_FLAGS=processes.QUICK)
  assert any(line.startswith('step 1/') for line in process.stderr), process.wait()
  process.stderr.close()
  process.send_signal(signal.SIGINT)
  assert process.wait(60) == 130
  assert checkpoints.Store(tmp_path / 'run').steps()


def test_run_lock_is_held_while_a_checkpoint_is_written(tmp_path, monkeypatch, capfd):
  """The lock is held until the checkpoint is written, even after an error, and a failed write is reported."""
  def is_free():
    with open(tmp_path / 'run.lock') as lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        return False
      return True

  free = []
  def write(*_):
    time.sleep(0.3)
    free.append(is_free())
    raise OSError('No space left on device')

  original = loop_lib.Loop.save_checkpoint
  def save_checkpoint(self, basename=None):
    original(self, basename)
    if self.step == 2:
      raise RuntimeError('out of memory')

  monkeypatch.setattr(checksums, 'write', write)
  monkeypatch.setattr(loop_lib.Loop, 'save_checkpoint', save_checkpoint)
  with pytest.raises(RuntimeError, match='out of memory'):
    runs.run(tmp_path, *runs.LONG, 'fit.checkpoint_every = 2')
  assert free == [False] and is_free()
  assert 'the checkpoint of step 2 could not be written' in capfd.readouterr().err


def test_resume_after_a_signal_during_the_last_checkpoint(whole, tmp_path, monkeypatch):
  original = loop_lib.Loop.save_checkpoint

  def save_checkpoint(self, basename=None):
    original(self, basename)
    if self.step == 6:
      signal.raise_signal(signal.SIGTERM)

  with monkeypatch.context() as patched:
    patched.setattr(loop_lib.Loop, 'save_checkpoint', save_checkpoint)
    with pytest.raises(SystemExit):
      runs.run(tmp_path, *runs.LONG)
  assert runs.run(tmp_path, *runs.LONG).valid_bits_per_token == whole[1].valid_bits_per_token


@pytest.mark.parametrize('step', sampling.some([3], [3, 6]))
def test_a_run_stopped_in_an_evaluation_evaluates_on_resume(whole, tmp_path, monkeypatch, step):
  """A run stopped within an evaluation saves the step, and evaluates it on resume.

  TensorBoard shows the evaluation once, and the checkpoint holds its result.
  """
  original = loop_lib.Loop._check_stop

  def check_stop(self):
    if self.step == step:
      signal.raise_signal(signal.SIGTERM)
    original(self)

  with monkeypatch.context() as patched:
    patched.setattr(loop_lib.Loop, '_check_stop', check_stop)
    with pytest.raises(SystemExit):
      runs.run(tmp_path, *runs.LONG)
  assert newest(tmp_path) == step
  evaluated = [at for at, _ in runs.events(tmp_path, 'metrics/SampleBitsPerToken', 'eval')]
  assert evaluated == [at for at in (1, 3) if at < step]

  def fail(*_):
    raise RuntimeError('out of power')

  with monkeypatch.context() as patched:  # Fails after the late evaluation, before any save.
    patched.setattr(checkpoints.Store, 'save', fail)
    with pytest.raises(RuntimeError):
      runs.run(tmp_path, *runs.LONG)
  runs.run(tmp_path, *runs.LONG)
  assert outcomes.differences(outcomes.outcome(tmp_path), whole[2]) == []


def test_resume_after_a_kill_logs_each_step_once(whole, tmp_path, monkeypatch):
  """After an end between checkpoints, as by a kill, the steps since the last checkpoint are logged again, and once."""
  def fail():
    raise RuntimeError('out of power')

  with monkeypatch.context() as patched:
    at_step(patched, 4, fail)
    with pytest.raises(RuntimeError):
      runs.run(tmp_path, *runs.LONG, 'fit.checkpoint_every = 2')
  assert 3 in [step for step, _ in runs.events(tmp_path, 'metrics/BitsPerToken')]
  file, = (tmp_path / 'train').glob('events*')
  with open(file, 'ab') as f:  # Adds a truncated record.
    f.write(b'\x18\0\0\0')
  runs.run(tmp_path, *runs.LONG)
  assert outcomes.differences(outcomes.outcome(tmp_path), whole[2]) == []


def test_killed_processes_resume_to_the_same_outcome(tmp_path, monkeypatch):
  """Runs survive the kill of real processes; `python tests/crash.py --kills 50` is the long version."""
  monkeypatch.setattr(crash, 'N_STEPS', 80)
  monkeypatch.setattr(crash, 'MODEL', ("Hourglass.hierarchy = '1@1'",))
  start = lambda arguments, stderr, variables: processes.Command('trax_hourglass.train', *arguments, stderr=stderr, **
                                                                 variables)
  kills, n_runs, differing = crash.crash(2, random.randrange(1 << 30), tmp_path, {'XLA_FLAGS': processes.QUICK},
                                         start=start, moments=[moment for moment in crash.MOMENTS if moment != 'asked'])
  assert sum(kills.values()) == 2 and n_runs and differing == []


def test_resume_skips_a_damaged_checkpoint(whole, copy, capsys):
  (copy / 'checkpoints' / '6' / 'SHA256SUMS').write_text('')
  runs.run(copy, *runs.LONG)
  assert f"{str(copy / 'checkpoints' / '6')!r} is damaged" in capsys.readouterr().err
  assert '6.damaged' in os.listdir(copy / 'checkpoints')
  assert outcomes.differences(outcomes.outcome(copy), whole[2]) == []


def test_resume_with_only_damaged_checkpoints_is_refused(copy):
  for path in (copy / 'checkpoints').iterdir():
    (path / 'notes.json').write_bytes(b'')
  before = runs.listing(copy)
  with pytest.raises(ValueError, match='all checkpoints in .* are damaged, and nothing was changed'):
    runs.run(copy, *runs.LONG)
  assert runs.listing(copy) == before


@pytest.mark.parametrize('bindings, message', [
    (['Hourglass.d_ff = 20'], 'Hourglass.d_ff was 10 and is 20'),
    (['peak_learning_rate = 1e-3', 'batch_size = 4'],
     'WarmupCosine.peak was 0.004 and is 0.001; fit.batch_size was 2 and is 4'),
    (['fit.corpus = @ByteCorpus()', f'ByteCorpus.path = {__file__!r}'], 'the train split has changed since the run in'),
    (['fit.seed = 3'], 'fit.seed was 0 and is 3'),
    (['fit.loss_chunk = 0'], 'loss_chunk is 0'),
    (['fit.accumulate = 2'], 'fit.accumulate was 1 and is 2'),
    (['WarmupCosine.n_steps = 9'], 'WarmupCosine.n_steps was 6 and is 9'),
])
def test_resume_with_other_settings_is_refused(copy, bindings, message):
  before = runs.listing(copy)
  with pytest.raises(ValueError, match=message.replace('.', r'\.')):
    runs.run(copy, *runs.LONG, *bindings)
  assert runs.listing(copy) == before


def test_resume_may_change_length_evaluation_and_retention(copy):
  result = runs.run(copy, *runs.LONG, 'n_steps = 7', 'fit.eval_every = 2', 'fit.keep_last = 1', 'fit.loss_chunk = 13')
  assert result.step == 7


def test_resume_allows_moved_data_but_not_changed_data(tmp_path):
  text = tmp_path / 'text'
  text.write_bytes(b'to be or not to be ' * 60)
  once = 'warmup_steps = 1', 'n_steps = 1', *runs.LONG[1:]
  runs.run(tmp_path / 'run', *once, f'ByteCorpus.path = {str(text)!r}')
  moved = text.rename(tmp_path / 'moved')
  runs.run(tmp_path / 'run', *once, 'n_steps = 2', f'ByteCorpus.path = {str(moved)!r}')
  moved.write_bytes(moved.read_bytes().replace(b'not', b'now', 1))
  with pytest.raises(ValueError, match='the train split has changed since the run in .*run. began: it was 1026 '
                                       'tokens, '):
    runs.run(tmp_path / 'run', *once, 'n_steps = 3', f'ByteCorpus.path = {str(moved)!r}')


def test_unremovable_event_files_are_reported(copy, capsys):
  before = runs.events(copy, 'metrics/BitsPerToken')
  (copy / 'train' / 'events.out.tfevents.0').mkdir()
  runs.run(copy, *runs.LONG)
  said = capsys.readouterr().err
  assert 'events.out.tfevents.0 could not be removed, and TensorBoard may show its points too' in said
  (copy / 'train' / 'events.out.tfevents.0').rmdir()
  assert runs.events(copy, 'metrics/BitsPerToken') == before != []


def test_a_locked_run_directory_is_refused(copy):
  before = runs.listing(copy)
  with open(copy / 'run.lock') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match=r'process \d+ of .* trains in .*run.: wait for it or give another output_dir'):
      runs.run(copy, *runs.LONG)
  assert runs.listing(copy) == before


def test_non_finite_weights_stop_at_the_last_good_checkpoint(tmp_path):
  gin.external_configurable(lambda step: 1e-3 if step < 4 else float('inf'), name='explode', module='test_faults')
  bindings = (*runs.LONG, 'fit.checkpoint_every = 1', 'fit.keep_best = False', 'fit.schedule = @test_faults.explode')
  with pytest.raises(ValueError, match=r'weights of step 4 are not finite, at learning rate inf; the last good '
                                       r'checkpoint is of '
                     'step 3: lower the learning rate'):
    runs.run(tmp_path, *bindings)
  store = checkpoints.Store(tmp_path)
  assert store.steps() == [2, 3] and store.newest_sound() == 3


def test_non_finite_steps_are_skipped_if_asked(tmp_path, monkeypatch, capsys):
  from trax_hourglass.training import step as step_lib  # pylint: disable=g-import-not-at-top
  original = step_lib.Trainer.one_step

  def one_step(self, batch, rng, step=0, learning_rate=None):
    if step == 2:  # A NaN token weight makes the loss NaN.
      tokens, targets, weights = batch
      batch = tokens, targets, np.full_like(weights, np.nan)
    return original(self, batch, rng, step, learning_rate)

  monkeypatch.setattr(step_lib.Trainer, 'one_step', one_step)
  with pytest.raises(ValueError, match='of step 2 are not finite'):
    runs.run(tmp_path / 'stops', *runs.LONG)
  result = runs.run(tmp_path / 'skips', *runs.LONG, "fit.on_non_finite = 'skip'")
  assert 'step 2 skipped' in capsys.readouterr().err
  assert result.step == 6 and np.isfinite(result.valid_bits_per_token)
  logged = runs.events(tmp_path / 'skips', 'metrics/WeightedCategoryCrossEntropy')
  assert [step for step, _ in logged] == [1, 3, 6] and np.isfinite([value for _, value in logged]).all()


def test_full_disk_does_not_end_training(whole, tmp_path, monkeypatch, capsys):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
  try:
    with monkeypatch.context() as patched:
      at_step(patched, 3, lambda: limit(2000))
      at_step(patched, 5, lambda: limit(limits[0]))
      runs.run(tmp_path, *runs.LONG)
  finally:
    limit(limits[0])
  said = capsys.readouterr().err
  assert 'the checkpoint of step 4 could not be written, training continues and the next checkpoint will be' in said
  assert newest(tmp_path) == 6 and 4 not in checkpoints.Store(tmp_path).steps()
  assert not [name for name in os.listdir(tmp_path / 'checkpoints') if not name.isdigit()]
  # The checkpoint of step 3, which is missing, may have been the best.
  assert set(outcomes.differences(outcomes.outcome(tmp_path), whole[2])) <= {'checkpoints'}


def test_a_disk_that_stays_full_ends_in_an_error(tmp_path, monkeypatch):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
  at_step(monkeypatch, 3, lambda: limit(8000))
  try:
    with pytest.raises(ValueError, match='checkpoint of step 6 could not be written .* resumes from step 2'):
      runs.run(tmp_path, *runs.LONG)
  finally:
    limit(limits[0])
  assert newest(tmp_path) == 2


def test_train_command_refuses_a_changed_config(copy, monkeypatch, capsys):
  monkeypatch.setattr('sys.argv', ['train', '--output_dir', str(copy), '--config', 'Hourglass.d_ff = 11'])
  with pytest.raises(SystemExit) as ended:
    train.main()
  said = capsys.readouterr().err.strip().splitlines()
  assert ended.value.code == 2 and len(said) == 1 and 'Hourglass.d_ff was 10 and is 11' in said[0]
