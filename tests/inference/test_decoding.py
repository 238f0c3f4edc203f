"""Tests the sampler: its choices, the independence of samples, and its errors."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
from tests.helpers import pairs
import pytest
from trax import shapes

from trax_hourglass.inference import decoding

ROOM = 24
LOGITS = jnp.log(jnp.array([[0.1, 0.4, 0.05, 0.3, 0.15]]))


@pytest.fixture(scope='module')
def models():
  """Returns a hierarchical model in modes 'eval' and 'predict'."""
  evaluated = pairs.initialise(pairs.ours('0@1 1@2 1@1'), ROOM)
  predicting = pairs.ours('0@1 1@2 1@1', mode='predict', max_length=ROOM)
  predicting.weights = evaluated.weights
  return evaluated, predicting


@pytest.fixture(scope='module')
def random(models):
  """Returns a sampler at temperature 1."""
  return decoding.Sampler(models[1], piece=5)


@pytest.fixture(scope='module')
def full_pass(models):
  """Returns the function (tokens of one sequence) -> log-probabilities (n, V), by the full forward pass."""
  forward = pairs.forward(models[0])

  def log_probs(sequence):
    padded = np.pad(sequence, (0, ROOM - len(sequence)))[None].astype(np.int32)
    return np.asarray(jax.nn.log_softmax(forward(models[0].weights, padded)))[0, :len(sequence)]

  return log_probs


@pytest.mark.parametrize(
    'choice, kept',
    [
        (decoding.Choice(), [0, 1, 2, 3, 4]),
        (decoding.Choice(top_k=2), [1, 3]),
        (decoding.Choice(top_k=9), [0, 1, 2, 3, 4]),
        (decoding.Choice(top_p=0.4), [1]),
        (decoding.Choice(top_p=0.41), [1, 3]),
        (decoding.Choice(top_p=0.84), [1, 3, 4]),
        (decoding.Choice(top_k=3, top_p=0.8), [1, 3]),  # Of three, 0.4 and 0.3 are 0.82 of 0.85.
        (decoding.Choice(temperature=0.25, top_p=0.7), [1]),  # 0.4^4 is 0.73 of all fourth powers.
    ])
def test_top_k_and_top_p_keep_the_right_tokens(choice, kept):
  filtered = np.asarray(choice.filtered(LOGITS))[0]
  assert np.flatnonzero(np.isfinite(filtered)).tolist() == kept
  expected = (np.asarray(LOGITS)[0, kept] - np.asarray(LOGITS).max()) / choice.temperature
  np.testing.assert_allclose(filtered[kept], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('temperature', [1e-3, 1e-39])
def test_small_temperatures_take_the_most_probable_token(temperature):
  logits = jnp.array([[1.0, 5.0, 3.0], [4.0, 5.0, 9.0]])
  drawn = decoding.Choice(temperature)(logits, jax.random.split(jax.random.PRNGKey(0), 2))
  assert drawn.tolist() == [1, 2]


def test_sampled_frequencies_follow_the_probabilities():
  n = 4000
  keys = jax.random.split(jax.random.PRNGKey(0), n)
  drawn = np.asarray(decoding.Choice(top_k=3)(jnp.repeat(LOGITS, n, axis=0), keys))
  share = np.bincount(drawn, minlength=5) / n
  np.testing.assert_allclose(share, np.array([0, 0.4, 0, 0.3, 0.15]) / 0.85, atol=4 * 0.5 / np.sqrt(n))
  assert (np.asarray(decoding.Choice(0.0)(jnp.repeat(LOGITS, 3, axis=0), keys[:3])) == 1).all()


@pytest.mark.parametrize('options, message', [({'temperature': -0.1}, 'temperature is -0.1'),
                                              ({'temperature': float('nan')}, 'temperature is nan'),
                                              ({'top_k': 0}, 'top_k is 0'), ({'top_k': 2.5}, 'top_k is 2.5'),
                                              ({'top_p': 0.0}, 'top_p is 0.0'),
                                              ({'top_p': 1.1}, 'top_p is 1.1')])
def test_invalid_sampling_parameters_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    decoding.Choice(**options)


def test_greedy_decoding_equals_argmax_for_prompts_of_any_length(models, full_pass):
  prompts = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3, 5], [8, 9, 7, 9]]
  samples = decoding.Sampler(models[1], decoding.Choice(0.0), piece=5).sample(prompts, 12)
  for prompt, sample in zip(prompts, samples):
    expected = full_pass([*prompt, *sample.tokens])[len(prompt):]
    np.testing.assert_array_equal(sample.tokens, expected.argmax(axis=-1))
    np.testing.assert_allclose(sample.log_probs, expected.max(axis=-1), rtol=0, atol=1e-4)


def test_a_sample_depends_only_on_its_number_and_seed(random):
  prompts = [[3, 1, 4], [1, 5, 9, 2, 6], [8, 9]]
  together = random.sample(prompts, 11, seed=5)
  alone, = random.sample(prompts[1:2], 11, seed=5, first_sequence=1)
  np.testing.assert_array_equal(alone.tokens, together[1].tokens)
  same = random.sample([prompts[0]] * 3, 11, seed=5)
  assert len({tuple(sample.tokens) for sample in same}) == 3
  np.testing.assert_array_equal(same[0].tokens, together[0].tokens)
  assert not np.array_equal(random.sample([prompts[0]] * 3, 11, seed=6)[0].tokens, same[0].tokens)


def test_pieces_of_any_length_are_compiled_once(models):
  traced = []

  class Counting(decoding.Sampler):

    def _loop(self, *arguments):
      traced.append(1)
      return super()._loop(*arguments)

  Counting(models[1], decoding.Choice(0.0), piece=5).sample([[3, 1, 4]], 13)
  assert len(traced) == 1


def test_decoding_in_pieces_equals_decoding_at_once(random, full_pass):
  prompts = [[3, 1, 4], [1, 5, 9, 2, 6], [8, 9]]
  pieces = list(random.stream(prompts, 11, seed=5))
  assert [len(piece[0].tokens) for piece in pieces] == [0, 5, 5, 1]  # The first is of the shortest prompt's next token.
  assert [len(piece[2].tokens) for piece in pieces] == [1, 5, 5, 0]
  for number, sample in enumerate(random.sample(prompts, 11, seed=5)):
    np.testing.assert_array_equal(np.concatenate([piece[number].tokens for piece in pieces]), sample.tokens)
    probabilities = full_pass([*prompts[number], *sample.tokens])[len(prompts[number]):]
    expected = np.take_along_axis(probabilities, sample.tokens[:, None], axis=-1)[:, 0]
    np.testing.assert_allclose(sample.log_probs, expected, rtol=0, atol=1e-4)


def test_the_stop_token_ends_a_sequence(models, random):
  prompts = [[3, 1, 4], [1, 5, 9, 2, 6], [8, 9]]
  free = random.sample(prompts, 11, seed=5)
  stop = int(free[0].tokens[3])
  stopped = decoding.Sampler(models[1], stop=stop, piece=5).sample(prompts, 11, seed=5)
  for a, b in zip(free, stopped):
    n = (np.flatnonzero(a.tokens == stop)[0] + 1) if stop in a.tokens else 11
    np.testing.assert_array_equal(b.tokens, a.tokens[:n])
  assert len(stopped[0].tokens) <= 4


def test_an_empty_prompt_is_allowed(random):
  sample, = random.sample([b''], ROOM)
  assert len(sample.tokens) == ROOM and sample.tokens.min() >= 0 and sample.tokens.max() < pairs.VOCAB


@pytest.mark.parametrize('prompts, length, message', [([], 3, '0 prompts'), ([[1]], 0, '0 tokens to write'),
                                                      ([[1, 2]], ROOM - 1, 'a prompt of 2 tokens and 23 more.*24'),
                                                      ([[pairs.VOCAB]], 3, f'token {pairs.VOCAB} is outside'),
                                                      (['text'], 3, 'is a str'), ([[[1]]], 3, 'shape'),
                                                      ([[0.5]], 3, 'float64')])
def test_invalid_prompts_are_refused(random, prompts, length, message):
  with pytest.raises(ValueError, match=message):
    random.stream(prompts, length)


def test_invalid_samplers_are_refused(models):
  for options, message in [({'stop': 256}, 'stop is 256'), ({'piece': 0}, 'piece is 0')]:
    with pytest.raises(ValueError, match=message):
      decoding.Sampler(models[1], **options)
  with pytest.raises(ValueError, match="cannot decode.*'predict'"):
    decoding.Sampler(models[0])


def test_cached_scores_equal_a_full_forward_pass(models, full_pass):
  texts = [[3, 1, 4], bytes([1, 5, 9, 2, 6]), np.array([8])]
  for model in models:
    for text, scores in zip(texts, decoding.score(model, texts)):
      tokens = np.array(list(text))
      expected = np.take_along_axis(full_pass(tokens), tokens[:, None], axis=-1)[:, 0]
      np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)


def test_scoring_keeps_no_model_alive():
  model = pairs.ours('1@1')
  model.init(shapes.signature(pairs.tokens(4)))
  decoding.score(model, [[3, 1, 4]])
  kept, weights = weakref.ref(model), weakref.ref(jax.tree.leaves(model.weights)[0])
  del model
  gc.collect()
  assert kept() is None and weights() is None


@pytest.mark.parametrize('seed', [-1, 1 << 63, 0.5])
def test_invalid_seeds_are_refused(random, seed):
  with pytest.raises(ValueError, match=f'seed is {seed}: give a whole number'):
    random.stream([[1]], 3, seed)


@pytest.mark.parametrize('texts, message', [([], 'nothing to score'), ([[1], []], 'nothing to score'),
                                            ([[1] * (ROOM + 1)], f'{ROOM + 1} tokens is longer'), ([[99]], 'token 99')])
def test_invalid_texts_are_refused(models, texts, message):
  with pytest.raises(ValueError, match=message):
    decoding.score(models[1], texts)
