"""Tests agreement with the authors' implementation on the same weights, and import and export of weights."""

import gzip
import itertools
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
from tests.helpers import pairs
from tests.helpers import sampling
import pytest
from trax import layers as tl
from trax import optimizers
from trax import shapes
from trax.supervised import training

import trax_hourglass as th
from trax_hourglass.models import interop

# Each shortening and each upsampling once; with --thorough each pair.
EACH = list(zip(itertools.cycle(pairs.SHORTENINGS), pairs.UPSAMPLINGS))
SMALL = '1@1 1@3 0@1', 'average', 'repeat'  # Compiles in half the time that the paper's resamplings take.
HIERARCHIES = {'single': '0@1 1@3 1@1', 'nested': '0@1 0@2 1@4 0@2 1@1'}


def assert_close(got, expected):
  """Compares arrays within 1e-5 of the largest value, in float32."""
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1e-6, float(np.abs(expected).max())))


def logits_and_gradients(model, x, probe):
  """Returns logits, and gradients of their product with a fixed probe as a model of its own for `to_trax`.

  Runs operation by operation, so that programs compiled for one pair of resamplings serve the others.
  """
  logits, pull = jax.vjp(lambda w: model.pure_fn(x, w, model.state, jax.random.PRNGKey(0))[0], model.weights)
  return logits, pull(probe)[0]


@pytest.mark.parametrize('shortening, upsampling, kind', [
    *((*pair, 'single') for pair in sampling.some(EACH, pairs.ALL)),
    # A test below has three levels; nesting does not depend on the pair.
    *((*pair, 'nested') for pair in sampling.some([], EACH))])
def test_logits_and_gradients_equal_trax(kind, shortening, upsampling):
  hierarchy, x = HIERARCHIES[kind], pairs.tokens(12)
  theirs = pairs.initialise(pairs.theirs(hierarchy, shortening, upsampling), 12)
  ours = interop.from_trax(theirs, pairs.ours(hierarchy, shortening, upsampling))
  probe = jnp.asarray(np.random.RandomState(2).randn(*x.shape, pairs.VOCAB), jnp.float32)
  expected_logits, expected_gradients = logits_and_gradients(theirs, x, probe)
  logits, gradients = logits_and_gradients(ours, x, probe)
  assert_close(logits, expected_logits)

  ours.weights, theirs.weights = gradients, expected_gradients  # Gradients have the form of weights: compare in order.
  flat = interop.to_trax(ours)
  expected = tl.flatten_weights_and_state(theirs.weights, theirs.state)[0]
  assert len(flat) == len(expected)
  largest = max(float(np.abs(g).max()) for g in expected)
  for got, want in zip(flat, expected):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * max(float(np.abs(want).max()), 1e-2 * largest))


def test_three_levels_and_deep_stacks():
  hierarchy, x = '0@1 2@2 0@4 1@12 0@4 2@2 0@1', pairs.tokens(24)
  theirs = pairs.initialise(pairs.theirs(hierarchy), 24)
  ours = interop.from_trax(theirs, pairs.ours(hierarchy))
  assert_close(pairs.forward(ours)(ours.weights, x), pairs.forward(theirs)(theirs.weights, x))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Returns a run of Trax's loop with the authors' model: (directory, trained model, batch, loss)."""
  directory = str(tmp_path_factory.mktemp('trax_run'))
  x = pairs.tokens(12)
  batch = (x, x, np.ones(x.shape, np.float32))
  model = pairs.theirs(*SMALL, mode='train', dropout=0.1)
  task = training.TrainTask(iter(lambda: batch, None), tl.WeightedCategoryCrossEntropy(), optimizers.Adam(1e-2),
                            n_steps_per_checkpoint=3)
  loop = training.Loop(model, task, output_dir=directory, random_seed=0)
  loop.run(3)
  evaluated = pairs.theirs(*SMALL)
  evaluated.init(shapes.signature(x))
  evaluated.weights = model.weights
  return directory, evaluated, batch, loss_of(evaluated, batch)


def loss_of(model, batch):
  logits = pairs.forward(model)(model.weights, batch[0])
  return float(tl.WeightedCategoryCrossEntropy()((logits, *batch[1:])))


def test_checkpoint_of_trax_loop_loads_and_gives_the_same_loss(trained):
  directory, _, batch, loss = trained
  assert os.path.exists(f'{directory}/model.weights.npy.gz')  # Weights without names, apart from the pickle.
  ours = interop.from_trax(f'{directory}/model.pkl.gz', pairs.ours(*SMALL))
  assert abs(loss_of(ours, batch) - loss) < 1e-5


def test_checkpoint_written_by_us_loads_in_trax(trained, tmp_path):
  _, theirs, batch, loss = trained
  path = str(tmp_path / 'model.pkl.gz')
  interop.to_trax(interop.from_trax(theirs, pairs.ours(*SMALL)), path)
  fresh = pairs.theirs(*SMALL)
  fresh.init_from_file(path, weights_only=True)
  assert loss_of(fresh, batch) == loss
  again = interop.from_trax(path, pairs.ours(*SMALL))
  assert abs(loss_of(again, batch) - loss) < 1e-5


@pytest.mark.parametrize('hierarchy, options, message', [
    ('1@1 2@3 0@1', {}, 'hierarchies'), ('1@1 1@3 0@1', {'d_ff': 12}, 'shape'),
])
def test_a_checkpoint_of_another_model_is_refused(trained, hierarchy, options, message):
  with pytest.raises(ValueError, match=message):
    interop.from_trax(trained[1], pairs.ours(hierarchy, *SMALL[1:], **options))


@pytest.mark.parametrize('options, message', [
    ({'vanilla_attention': th.CausalLocalAttention}, 'the model has LocalAttention, which trax.models.HourglassLM'),
    ({'shortened_attention': th.CausalRotaryAttention}, 'the model has RotaryAttention'),
    ({'skip': 'linear'}, "residuals have weights, .* set Hourglass.skip = 'identity'"),
    ({'skip': 'scaled'}, "residuals have weights"),
])
def test_models_that_trax_does_not_have_are_refused(options, message):
  model = pairs.ours('1@1 1@3 0@1', *SMALL[1:], **{'d_model': 12, 'n_heads': 2, **options})
  model.init(shapes.signature(pairs.tokens(12)))
  with pytest.raises(ValueError, match=message):
    interop.to_trax(model)


def test_model_without_weights_is_refused():
  with pytest.raises(ValueError, match='init'):
    interop.from_trax(pairs.theirs(*SMALL), pairs.ours(*SMALL))
  with pytest.raises(ValueError, match='init'):
    interop.to_trax(pairs.ours(*SMALL))


class Evil:

  def __reduce__(self):
    return os.system, ('touch should_not_exist',)


@pytest.mark.parametrize('contents, message', [
    ({'flat_weights': [Evil()]}, 'system'), (pytest, 'refused'), ([1, 2], 'no list of weights'),
    ({'flat_weights': [1]}, 'no list of weights'), ({}, 'no list of weights'), ({'flat_weights': 2}, 'no such file'),
])
def test_hostile_and_other_pickles_are_refused(tmp_path, monkeypatch, contents, message):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / 'model.pkl.gz'
  with gzip.open(path, 'wb') as f:
    f.write(b'cpytest\nmain\n.' if contents is pytest else pickle.dumps(contents))
  with pytest.raises(ValueError, match=message) as raised:
    interop.from_trax(str(path), pairs.ours(*SMALL))
  assert str(path)[:-7] in str(raised.value)
  assert not (tmp_path / 'should_not_exist').exists()


def test_damaged_files_are_refused(trained, tmp_path):
  directory = trained[0]
  for name in ('model.pkl.gz', 'model.weights.npy.gz'):
    for other in ('model.pkl.gz', 'model.weights.npy.gz'):
      (tmp_path / other).write_bytes(open(f'{directory}/{other}', 'rb').read())
    damaged = tmp_path / name
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ValueError, match=name):
      interop.from_trax(str(tmp_path / 'model.pkl.gz'), pairs.ours(*SMALL))
  with pytest.raises(ValueError, match='no such file'):
    interop.from_trax(str(tmp_path / 'missing.pkl.gz'), pairs.ours(*SMALL))
