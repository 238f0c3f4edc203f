"""Tests the export of permanently kept checkpoints as files of Trax's loop."""

import shutil

import jax
import numpy as np
from trax import layers as tl
from trax import optimizers
from trax.supervised import training

import trax_hourglass as th
from trax_hourglass.models import trax_checkpoint
from trax_hourglass.training import checkpoints
from tests.helpers.runs import LONG
from tests.helpers import runs
from tests.helpers import outcomes


def test_kept_checkpoints_are_exported_for_the_trax_loop(tmp_path, monkeypatch, capsys):
  """Kept checkpoints are exported even after a full disk at the first one, or a kill before its export was complete."""
  original, contents = trax_checkpoint.pickle.dump, []

  def full_once(value, file):
    contents.append(value['step'])
    original(value, file)
    if len(contents) == 1:
      raise OSError(28, 'No space left on device')

  monkeypatch.setattr(trax_checkpoint.pickle, 'dump', full_once)
  runs.run(tmp_path / 'run', *LONG, 'fit.keep_every = 3')
  assert contents == [3, 3, 6] and {3, 6} <= set(checkpoints.Store(tmp_path / 'run').steps())
  said = [line for line in capsys.readouterr().err.splitlines() if 'could not be written' in line]
  assert said == ['model_3.pkl.gz could not be written, training goes on and it is tried again later: '
                  '[Errno 28] No space left on device']
  exported = tmp_path / 'run' / 'model_3.pkl.gz'
  before = trax_checkpoint.read_weights(exported)
  exported.rename(f'{exported}.unfinished')
  runs.run(tmp_path / 'run', *LONG, 'fit.keep_every = 3')
  assert contents == [3, 3, 6, 3] and not list((tmp_path / 'run').glob('*.unfinished'))
  stored = checkpoints.Store(tmp_path / 'run').read(3)['weights']
  for x, y, z in zip(before, trax_checkpoint.read_weights(exported), stored, strict=True):
    np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(x, z)
  shutil.copy(tmp_path / 'run' / 'model_6.pkl.gz', tmp_path / 'model.pkl.gz')
  tokens = np.zeros((2, 13), np.int32)
  task = training.TrainTask(iter(lambda: (tokens, tokens, np.ones(tokens.shape, np.float32)), None),
                            tl.WeightedCategoryCrossEntropy(), optimizers.Adam())
  loop = training.Loop(th.Hourglass(mode='train'), task, output_dir=str(tmp_path), random_seed=0)
  expected = outcomes.outcome(tmp_path / 'run')[0]
  assert loop.step == 6 and loop.history.get('eval', 'metrics/SampleBitsPerToken')
  for found, wanted in ((loop.model.weights, expected['weights']), (loop._trainer_per_task[0].slots,
                                                                    expected['slots'])):
    for x, y in zip(jax.tree.leaves(found), wanted, strict=True):
      np.testing.assert_array_equal(x, y)
