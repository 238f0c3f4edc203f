"""Tests training runs: reproducible, resumable, compiled once, and usable from Trax's own trainer."""

import json
import logging
import math
import os
import shutil
import time
import types

import gin
import jax
import numpy as np
import pytest
import trax
from trax.supervised import trainer_lib

import trax_hourglass as th
from trax_hourglass.data import batches
from trax_hourglass.runtime import gin_config
from trax_hourglass.training import loop
from trax_hourglass.training import schedules
from trax_hourglass.training import step
from tests.helpers import runs
from tests.helpers import corpora


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """An uninterrupted run of 4 steps: (directory, result)."""
  directory = tmp_path_factory.mktemp('finished')
  return directory, runs.run(directory)


def test_fit_returns_a_result_and_fills_the_run_directory(finished):
  directory, result = finished
  assert result.step == 4 and result.n_tokens_scored == 100 and 4 < result.valid_bits_per_token < 9
  assert {'config.gin', 'versions.json', 'checkpoints', 'train', 'eval'} <= set(os.listdir(directory))
  assert json.loads((directory / 'versions.json').read_text())['jax'] == jax.__version__
  nats, bits = (runs.events(directory, f'metrics/{name}') for name in ('WeightedCategoryCrossEntropy', 'BitsPerToken'))
  assert [step for step, _ in nats] == [1, 2, 4]
  np.testing.assert_allclose([b for _, b in bits], [n / math.log(2) for _, n in nats], rtol=1e-6)
  assert [step for step, _ in runs.events(directory, 'metrics/SampleBitsPerToken', 'eval')] == [1, 2, 4]
  assert (directory / 'checkpoints' / '4' / 'notes.json').stat().st_size < 100_000


def test_equal_seeds_give_equal_losses(finished, tmp_path):
  directory, result = finished
  again = runs.run(tmp_path)
  assert again.valid_bits_per_token == result.valid_bits_per_token
  tag = 'metrics/WeightedCategoryCrossEntropy'
  assert runs.events(tmp_path, tag) == runs.events(directory, tag)
  other = runs.run(tmp_path / 'other', 'fit.seed = 1')
  assert other.valid_bits_per_token != result.valid_bits_per_token


def test_resume_equals_an_uninterrupted_run(tmp_path):
  """A stopped and resumed run of a hierarchical model scores like an uninterrupted one."""
  # The schedule spans 4 steps in both; only the end of the first part differs.
  uninterrupted = runs.run(tmp_path / 'uninterrupted', *runs.HOURGLASS)
  part = runs.run(tmp_path / 'parts', *runs.HOURGLASS, 'fit.n_steps = 2')
  assert part.step == 2
  whole = runs.run(tmp_path / 'parts', *runs.HOURGLASS)
  assert whole.step == 4
  np.testing.assert_allclose(whole.valid_bits_per_token, uninterrupted.valid_bits_per_token, rtol=1e-6)
  again = runs.run(tmp_path / 'parts', *runs.HOURGLASS)  # No steps are left, so the run is only scored.
  assert again.valid_bits_per_token == whole.valid_bits_per_token


def test_steps_per_second_count_only_training_since_a_restart(tmp_path, monkeypatch):
  """The logged speed excludes steps before a restart, and evaluations.

  A simulated clock adds 0.25 s for a step and 100 s for an evaluation.
  """
  settings = ('n_steps = 8', 'fit.eval_every = 2', 'fit.checkpoint_every = 3', 'fit.keep_last = 9')
  runs.run(tmp_path, *settings)
  for step_number in 6, 8:  # The checkpoint of step 3 has a step that is not logged yet.
    shutil.rmtree(tmp_path / 'checkpoints' / str(step_number))
  now, original, deleted = [0.0], step.Trainer.one_step, []

  def slow(self, *args, **kwargs):
    now[0] += 0.25
    return original(self, *args, **kwargs)

  class Look:
    """Slows evaluations and checks deleted weights, as a callback."""
    def __init__(self, loop):
      self._loop, self._evaluate = loop, None

    def call_at(self, number):
      return number > 1

    def on_step_begin(self, number):
      if self._evaluate is None:
        self._evaluate, self._loop._evaluate = self._loop._evaluate, self._slowly

    def on_step_end(self, number):
      deleted.append(all(array.is_deleted() for array in jax.tree.leaves(self._loop.eval_model.weights)))

    def _slowly(self, *args):
      now[0] += 100
      return self._evaluate(*args)

  monkeypatch.setattr(step.Trainer, 'one_step', slow)
  monkeypatch.setattr(loop, 'time', types.SimpleNamespace(monotonic=lambda: now[0], time=time.time))
  gin.clear_config()
  gin_config.parse_gin([runs.TINY], settings)
  th.fit(str(tmp_path), callbacks=[Look])
  rates = dict(runs.events(tmp_path, 'training/steps per second'))
  assert {number: rates[number] for number in (4, 6, 8)} == {4: 4.0, 6: 4.0, 8: 4.0}
  assert now[0] > 200 and deleted[0]  # The evaluation model holds no weights of its own.


def test_step_and_evaluation_are_compiled_once(tmp_path, caplog):
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    runs.run(tmp_path)  # Three evaluations and the final scoring of the valid split, all in batches of one shape.
  compiled = [r.getMessage() for r in caplog.records if 'Compiling jit(' in r.getMessage()]
  for name in ('_update', 'nats'):
    assert sum(f'Compiling jit({name})' in message for message in compiled) == 1, compiled


def test_chunked_loss_gives_the_same_score(finished, tmp_path):
  for chunk in (4, 13):
    # With dropout; the 13 tokens form four chunks, or one.
    result = runs.run(tmp_path / str(chunk), f'fit.loss_chunk = {chunk}')
    np.testing.assert_allclose(result.valid_bits_per_token, finished[1].valid_bits_per_token, rtol=1e-5)


def test_saved_config_reproduces_the_run(finished, tmp_path):
  directory, result = finished
  gin.clear_config()
  gin_config.parse_gin([str(directory / 'config.gin')], [])
  assert th.fit(str(tmp_path)).valid_bits_per_token == result.valid_bits_per_token


def test_training_reduces_the_loss(tmp_path):
  (tmp_path / 'text').write_bytes(b'abcdefgh' * 200)
  result = runs.run(tmp_path / 'run', f"ByteCorpus.path = '{tmp_path}/text'", 'n_steps = 120',
                    'fit.checkpoint_every = 120', 'warmup_steps = 10', 'peak_learning_rate = 2e-2',
                    'Hourglass.dropout = 0.0', 'length = 24')
  # Eight letters repeat, so that only the first token of a window is uncertain.
  assert result.valid_bits_per_token < 1.5


@pytest.mark.parametrize('binding, message', [
    ('n_steps = 0', 'n_steps'), ('n_steps = 2147483648', 'n_steps is 2147483648: give 2,147,483,647 at most'),
    ('batch_size = 0', 'batch_size'), ('length = 0', 'length'),
    ('length = 100000000', 'longer than'), ('warmup_steps = 5', 'warmup_steps'), ('fit.eval_every = 0', 'eval_every'),
    ('length = True', 'length is True: give a whole number above 0'),
    ('fit.seed = True', 'seed is True: give a whole number, not below 0'),
    ('fit.max_valid_tokens = 0', 'max_valid_tokens is 0'), ('fit.max_valid_tokens = 0.5', 'max_valid_tokens is 0.5'),
    ('fit.n_devices = 2', 'n_devices is 2: give a number from 1 to 1'), ('fit.loss_chunk = 0', 'loss_chunk is 0'),
    ('fit.dtype = "float8"', 'float8'), ('fit.accumulate = 3', 'does not divide among 1 devices and 3 parts'),
    ('Hourglass.vocab_size = 100', 'outside the vocabulary 0 .. 99'), ('Hourglass.recompute = "all"', 'recompute'),
    ('Hourglass.hierarchy = "2@1 3@2"', '2@1 3@2'), ('ByteCorpus.path = "/no/such/file"', '/no/such/file'),
])
def test_invalid_settings_leave_no_run_directory(tmp_path, binding, message):
  with pytest.raises(ValueError, match=message):
    runs.run(tmp_path / 'run', binding)
  assert not (tmp_path / 'run').exists()


def test_the_model_trains_under_the_trax_trainer(tmp_path):
  """A plain Trax gin config trains our model, set as `train.model`."""
  def stream(_):
    windows = batches.RandomWindows(corpora.Numbers(200), 2, 12, 0, 256)
    while True:
      yield next(windows)

  gin.external_configurable(
      lambda: trax.data.inputs.Inputs(stream, stream), name='numbers', module='test_training')
  gin.parse_config('''
      import trax_hourglass
      train.model = @trax_hourglass.models.Hourglass
      train.inputs = @test_training.numbers
      train.optimizer = @trax.optimizers.Adam
      train.steps = 3
      train.eval_frequency = 3
      train.eval_steps = 1
      train.checkpoints_at = []
      trax_hourglass.models.Hourglass.hierarchy = '0@1 1@3 0@1'
      trax_hourglass.models.Hourglass.d_model = 14
      trax_hourglass.models.Hourglass.d_ff = 10
      trax_hourglass.models.Hourglass.n_heads = 7
  ''')
  trained = trainer_lib.train(str(tmp_path))
  assert trained.step == 3
  assert 'trax_hourglass.models.Hourglass' in (tmp_path / 'config.gin').read_text()


def test_warmup_cosine_matches_values_by_hand():
  rate = schedules.WarmupCosine(peak=2.0, warmup_steps=4, n_steps=12)
  np.testing.assert_allclose([rate(s) for s in (1, 2, 4, 8, 12, 13)], [0.5, 1.0, 2.0, 1.0, 0.0, 0.0], atol=1e-9)
