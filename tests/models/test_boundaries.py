"""Tests groups that end at boundaries: causal for any text, fixed groups as a special case, decoded in groups."""

import functools
import json
import re

import gin
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import causality as causality_helper
from tests.helpers import pairs
from tests.helpers import predicting
from tests.helpers import runs
from tests.helpers import sampling
from trax_hourglass.inference import causality
from trax_hourglass.inference import decoding
from trax_hourglass.layers import boundaries
from trax_hourglass.models import interop
import trax_hourglass as th
from trax_hourglass import evaluate

HIERARCHY, LENGTH = '1@1 1@3 1@1', 13


def ours(rule, hierarchy=HIERARCHY, **options):
  options = {'vocab_size': 256, 'd_model': 14, 'd_ff': 10, 'n_heads': 7, 'mode': 'eval', 'boundaries': rule,
             'shortening': th.ShortenAtBoundaries, 'upsampling': th.UpsampleFromBoundaries, **options}
  return th.Hourglass(hierarchy=hierarchy, **options)


def at_even(tokens):
  """Ends a group at even tokens, as a user's own rule."""
  return tokens % 2 == 0


TEXTS = st.one_of(st.text('ab c.\n', min_size=LENGTH, max_size=LENGTH).map(str.encode),
                  st.binary(min_size=LENGTH, max_size=LENGTH), st.sampled_from([b' ' * LENGTH, b'a' * LENGTH,
                                                                                b'a ' * 7, b' a' * 7]))
RULES = {'words': th.EndOfWord, 'lines': functools.partial(boundaries.AtBytes, which=b'\n '), 'own': at_even,
         'every': th.EveryKth}


def as_tokens(text):
  return np.frombuffer(text[:LENGTH], np.uint8).astype(np.int32)


@pytest.fixture(scope='module', params=RULES)
def model(request):
  """Returns (model in mode 'eval', its compiled function, model in mode 'predict', its compiled function)."""
  rule = RULES[request.param]
  evaluated = pairs.initialise(ours(rule), LENGTH)
  predicts = ours(rule, mode='predict', max_length=LENGTH)
  predicts.weights = evaluated.weights
  return evaluated, pairs.forward(evaluated), predicts, predicting.compiled(predicts)


@hypothesis.settings(max_examples=sampling.examples(12, 100),
                     suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(TEXTS)
def test_no_output_sees_the_future_at_any_offset(model, text):
  assert causality.check(model[0], as_tokens(text), LENGTH).leak is None


@hypothesis.settings(max_examples=sampling.examples(12, 100),
                     suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.lists(TEXTS, min_size=3, max_size=3), st.sampled_from([1, 2, 7, LENGTH]))
def test_batched_decoding_equals_the_full_forward_pass(model, texts, n_prompt):
  evaluated, forward, predicts, function = model
  x = np.stack([as_tokens(text) for text in texts])
  np.testing.assert_allclose(predicting.decode(function, predicts, x, n_prompt), forward(evaluated.weights, x), rtol=0,
                             atol=2e-4)


def fixed_and_every(**options):
  fixed = pairs.initialise(th.Hourglass(
      hierarchy=HIERARCHY, mode='eval', shortening=th.ShortenByAverage, upsampling=th.UpsampleByLinear,
      **{'d_model': 14, 'd_ff': 10, 'n_heads': 7, **options}), LENGTH)
  every = ours(th.EveryKth, **options)
  every.init(pairs.shapes.signature(pairs.tokens(LENGTH)))
  every.weights = jax.tree.unflatten(jax.tree.structure(every.weights), jax.tree.leaves(fixed.weights))
  return fixed, every


def assert_same_gradients(those, others):
  """Compares gradients weight by weight; where the exact gradient is 0, rounding errors scale with the largest one."""
  those, others = jax.tree.leaves(those), jax.tree.leaves(others)
  largest = max(float(np.abs(g).max()) for g in those)
  for g, h in zip(those, others, strict=True):
    np.testing.assert_allclose(g, h, rtol=0, atol=1e-4 * float(np.abs(g).max()) + 2e-6 * largest)


@pytest.mark.parametrize('options', [{}, dict(d_model=(14, 28))])
def test_every_kth_boundaries_equal_fixed_groups(options):
  fixed, every = fixed_and_every(**options)
  x = pairs.tokens(LENGTH)
  def loss(model):
    return jax.jit(jax.value_and_grad(
        lambda weights: jnp.sin(model.pure_fn(x, weights, model.state, jax.random.PRNGKey(0))[0]).sum()))
  (a, of_fixed), (b, of_every) = loss(fixed)(fixed.weights), loss(every)(every.weights)
  np.testing.assert_allclose(a, b, rtol=1e-5)
  assert_same_gradients(of_fixed, of_every)


@pytest.mark.parametrize('recompute', ['elementwise', 'products', 'blocks'])
def test_remat_does_not_change_values_or_gradients(recompute):
  x = pairs.tokens(LENGTH)
  make = lambda how: pairs.initialise(
      ours(th.EndOfWord, mode='train', dropout=0.0, vocab_size=pairs.VOCAB, recompute=how), LENGTH)
  weights = jax.tree.leaves(make('none').weights)

  def gradients(model):
    return jax.jit(jax.grad(lambda weights: jnp.square(
        model.pure_fn(x, weights, model.state, jax.random.PRNGKey(0))[0]).sum()))(
            jax.tree.unflatten(jax.tree.structure(model.weights), weights))

  assert_same_gradients(gradients(make('none')), gradients(make(recompute)))


def test_groups_by_hand():
  found = boundaries.groups(jnp.array([[0, 1, 0, 0, 1, 1, 0]], bool), 2)
  assert found.ends.tolist() == [[False, True, False, False, True, False, False]]  # The third has no slot.
  assert found.slot.tolist() == [[0, 0, 1, 1, 1, 2, 2]] and found.last.tolist() == [[-1, 0, 0, 0, 1, 1, 1]]
  assert found.place.tolist() == [[0, 0, 1, 2, 0, 1, 2]]


@pytest.mark.parametrize('text, ends', [
    ('ab, c d', '0010010'), ('   ', '000'), ('abc', '000'), ('a1_b', '0010'), ('Z-@[`{/:', '01000000'),
    ('été.', '000101')])  # Two bytes for each é: the first is no letter, and ends the word before.
def test_words_end_as_in_spacebyte(text, ends):
  tokens = jnp.asarray([list(text.encode())], jnp.int32)
  assert ''.join('01'[int(end)] for end in boundaries.EndOfWord(tokens)[0]) == ends


def test_groups_without_a_slot_are_counted():
  tokens = jnp.asarray([list(b'a b c d e f g'), list(b'abcdefghijklm')], jnp.int32)
  n_groups, n_slots = boundaries.count(boundaries.EndOfWord, 5, tokens)
  assert n_groups.tolist() == [6, 0] and n_slots == 3
  assert boundaries.told((n_groups, n_slots)) == (
      'groups at boundaries: 3.0 a window, which has 3 slots; 50.0% of 2 windows have more, and 50.00% of all groups '
      'find no slot')


def test_coarse_levels_run_only_when_a_group_ends():
  steps = []

  @th.decodes
  def Counting(spec, tokens_per_vector):  # pylint: disable=invalid-name
    del spec, tokens_per_vector
    def run(x):
      jax.debug.callback(lambda: steps.append(1))
      return x
    return pairs.tl.Fn('Counting', run)

  model = ours(th.EndOfWord, '0@1 1@3 0@1', mode='predict', max_length=30, shortened_attention=Counting)
  model.init(pairs.shapes.ShapeDtype((1, 1), np.int32))
  function, state = predicting.compiled(model), model.start(1)
  for byte in b'\0ab cde fg':
    _, state = function(model.weights, state, np.array([[byte]], np.int32))
  jax.effects_barrier()
  assert len(steps) == 2


def test_a_run_trains_resumes_is_causal_and_samples(tmp_path, capsys):
  if 'at_even' not in gin.config._REGISTRY:
    with gin.unlock_config():
      gin.external_configurable(at_even, module='test_boundaries')
  bindings = ("Hourglass.hierarchy = '0@1 1@3 0@1'", 'Hourglass.shortening = @ShortenAtBoundaries',
              'Hourglass.upsampling = @UpsampleFromBoundaries', 'Hourglass.boundaries = @at_even')
  runs.run(tmp_path / 'run', *bindings)
  assert re.search(r'^groups at boundaries: \d\.\d a window, which has 5 slots; ', capsys.readouterr().err, re.M)
  runs.run(tmp_path / 'run', *bindings, 'n_steps = 5')
  capsys.readouterr()
  evaluate.main(['--output_dir', str(tmp_path / 'run'), '--check_causality', '--json'])
  assert json.loads(capsys.readouterr().out)['is_causal']
  run = th.run_directory.load(tmp_path / 'run', mode='predict')
  samples = decoding.Sampler(run.model).sample([b'ab', b'abcd'], 20, seed=1)
  assert [len(sample.tokens) for sample in samples] == [20, 20]
  scored = decoding.score(run.model, [b'ab' + bytes(samples[0].tokens.tolist())])
  np.testing.assert_allclose(scored[0][2:], samples[0].log_probs, atol=1e-3)


@pytest.mark.parametrize('make, message', [
    (lambda: ours(lambda tokens: tokens), r'returned int32 \(2, 15\), expected bool \(2, 15\)'),
    (lambda: ours(lambda tokens: (tokens > 3)[:, 1:]), r'returned bool \(2, 14\), expected bool'),
    (lambda: ours(lambda tokens: True), r'returned bool None, expected bool \(2, 15\)'),
    (lambda: ours(None), 'boundaries is None: set a rule for where groups end, such as Hourglass.boundaries = @EndOf'),
    (lambda: ours(th.EndOfWord, '1@1 1@2|3 1@1'), 'boundaries group tokens, expected one shortening by one factor'),
    (lambda: ours(th.EndOfWord, '1@1 1@2 1@4 1@2 1@1'), 'expected one shortening'),
    (lambda: ours(th.EndOfWord, '2@1'), 'expected one shortening'),
    (lambda: ours(th.EndOfWord, upsampling=th.UpsampleByRepeat), 'set with a resampling of fixed groups'),
    (lambda: ours(th.EndOfWord, shortening=th.ShortenByAverage), 'set with a resampling of fixed groups'),
])
def test_invalid_boundary_settings_are_refused(make, message):
  with pytest.raises(Exception, match=message):
    make().init(pairs.shapes.signature(pairs.tokens(LENGTH)))


def test_scores_do_not_depend_on_the_other_texts(model):
  one, other = [1, 2] * 6, list(range(1, 40))  # The first has more groups than slots, unless it is padded further.
  alone, = decoding.score(model[0], [one])
  together, _ = decoding.score(model[0], [one, other])
  np.testing.assert_array_equal(alone, together)


def test_boundaries_are_refused_for_the_trax_model():
  with pytest.raises(ValueError, match='groups of the model end at boundaries, and trax.models.HourglassLM has fixed'):
    interop.to_trax(pairs.initialise(ours(th.EndOfWord), LENGTH))


def test_the_shared_check_of_plug_ins_passes():
  model = pairs.initialise(ours(at_even, vocab_size=pairs.VOCAB), LENGTH)
  causality_helper.assert_causal(model, LENGTH)
