"""Tests that the causality check finds planted leaks anywhere and passes models without leaks."""

import json

import gin
import jax.numpy as jnp
import pytest
from trax import layers as tl

from tests.helpers import pairs
from trax_hourglass import evaluate
from trax_hourglass.inference import causality


def model(upsampling=None):
  made = pairs.ours('0@1 1@3 0@1', 'average', 'repeat')
  if upsampling is not None:
    made = pairs.th.Hourglass(pairs.VOCAB, '0@1 1@3 0@1', pairs.D_MODEL, pairs.D_FF, pairs.N_HEADS, mode='eval',
                              shortening=pairs.th.ShortenByAverage, upsampling=upsampling)
  return pairs.initialise(made, 12)


def OwnGroup(spec, shorten_factor, tokens_per_vector):  # pylint: disable=invalid-name
  """Hands a group's mean back to its own members: the leak of several published results."""
  del spec, tokens_per_vector
  def mean(coarse, fine):
    means = fine.reshape(fine.shape[0], -1, shorten_factor, fine.shape[2]).mean(axis=2)
    return jnp.repeat(coarse + means, shorten_factor, axis=1)
  return tl.Fn('OwnGroup', mean)


@pytest.mark.parametrize('batch_size', [1, 5, 30])
def test_a_model_without_leaks_passes(batch_size):
  done = []
  found = causality.check(model(), pairs.tokens(13)[0], batch_size, on_batch=done.append)
  assert found.leak is None and found.n_offsets == 13 and found.largest_difference < 1e-6 and done[-1] == 13


def test_a_group_mean_leaked_to_its_members_is_detected():
  found = causality.check(model(OwnGroup), pairs.tokens(13)[0], 4)
  assert found.leak == (0, 0) and found.largest_difference > 1e-3


@pytest.mark.parametrize('token, output', [(0, 0), (7, 7), (11, 2), (12, 12), (12, 0)])
def test_a_single_leak_of_one_future_token_is_detected(token, output):
  class Leaking:
    vocab_size, weights, state = 11, (), ()

    def pure_fn(self, x, weights, state, rng):
      del weights, rng
      logits = jnp.ones((*x.shape, 11))
      return logits.at[:, output, 0].add(0.01 * x[:, token]), state

  found = causality.check(Leaking(), pairs.tokens(13)[0], 3)
  assert found.leak[0] <= token and found.leak[1] == output


def test_non_finite_outputs_do_not_pass():
  class Broken:
    vocab_size, weights, state = 11, (), ()

    def pure_fn(self, x, weights, state, rng):
      del weights, rng
      return jnp.full((*x.shape, 11), jnp.nan), state

  assert causality.check(Broken(), pairs.tokens(5)[0], 3).leak == (0, 0)


def test_check_causality_prints_its_result(tiny_run, capsys):
  evaluate.main(['--output_dir', str(tiny_run[0]), '--check_causality', '--json'])
  assert json.loads(capsys.readouterr().out) == {'is_causal': True, 'n_offsets': 13, 'leak': None,
                                                 'largest_difference': pytest.approx(0, abs=1e-6)}
  evaluate.main(['--output_dir', str(tiny_run[0]), '--check_causality'])
  said = capsys.readouterr().out
  assert 'causal: no output depends on its own token or later ones, at 13 offsets of a window' in said
  if 'OwnGroup' not in gin.config._REGISTRY:
    with gin.unlock_config():
      gin.external_configurable(OwnGroup, module='test_causality')
  with pytest.raises(SystemExit) as ended:
    evaluate.main(['--output_dir', str(tiny_run[0]), '--check_causality', '--config',
                   'Hourglass.upsampling = @OwnGroup'])
  assert ended.value.code == 2
  assert 'evaluate: the model is not causal: output 0 changes with tokens 0 and later' in capsys.readouterr().err
