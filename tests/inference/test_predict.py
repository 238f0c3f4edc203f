"""Tests mode 'predict': equal to the full forward pass, once per group, bytes as predicted, clear errors."""

import collections
import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from tests.helpers import pairs
from tests.helpers import sampling
import pytest
from trax import layers as tl
from trax import shapes
from trax.supervised import decoding as trax_decoding
from tests.helpers import predicting

import trax_hourglass as th
from trax_hourglass.layers import plugins
from trax_hourglass.ops import kv_cache
from trax_hourglass.runtime import errors

SMALL = {'0@1 1@2 0@1': 2, '1@1 1@3 0@1': 3, '0@1 0@2 1@4 0@2 0@1': 4}  # Single, unequal and nested.
HIERARCHIES = {  # Each with the product of its factors.
    '2@1': 1, '1@1 1@2 1@1': 2, '0@1 2@3 1@1': 3, '1@1 1@4 0@1': 4, '0@1 1@2 1@4 0@2 1@1': 4, '1@1 0@2 1@6 1@2 1@1': 6}
# Each shortening, each upsampling and each attention; with --thorough each pair.
PAIRS = sampling.some([1, 2, 10, 15, 17, 18], range(len(pairs.ALL)))
OPTIONS = {'relative': {}, 'rotary': dict(d_model=12, n_heads=2, vanilla_attention=th.CausalRotaryAttention,
                                          shortened_attention=th.CausalRotaryAttention)}


@plugins.decodes
def Nothing(spec, tokens_per_vector):  # pylint: disable=invalid-name
  """Replaces attention by a layer that compiles at once."""
  del spec, tokens_per_vector
  return tl.Fn('Nothing', lambda x: x)


OPTIONS['none'] = dict(vanilla_attention=Nothing, shortened_attention=Nothing)


def checking(pair, hierarchy, attention, batch, length):
  """Returns a function of a prompt's length that asserts that decoding behind it equals the full forward pass."""
  model = pairs.initialise(pairs.ours(hierarchy, *pair, **OPTIONS[attention]), length)
  x = pairs.tokens(length, batch, seed=length)
  expected = np.asarray(pairs.forward(model)(model.weights, x))
  cached = predicting.predicting(model, hierarchy, *pair, max_length=length, **OPTIONS[attention])
  function, state = predicting.compiled(cached), cached.start(batch)
  return lambda n: np.testing.assert_allclose(predicting.decode(function, cached, x, n, state), expected, rtol=0, atol=
                                              1e-4)


@pytest.mark.parametrize('number', PAIRS, ids=[' '.join(pairs.ALL[number]) for number in PAIRS])
def test_every_resampling_pair_decodes_as_the_full_forward_pass(number):
  """Each shortening and upsampling meets all hierarchies, longer prompts, and attention within blocks."""
  shortening, upsampling = divmod(number, len(pairs.UPSAMPLINGS))
  attends = [name.startswith('attention') for name in pairs.ALL[number]]
  # Attention in both directions compiles slowly, so these pairs take a single level.
  hierarchy, product = list(SMALL.items())[0 if all(attends) else (shortening + upsampling) % len(SMALL)]
  attention = {1: 'relative', 3: 'rotary'}.get((upsampling - shortening) % 6, 'none')
  check = checking(pairs.ALL[number], hierarchy, attention, 1 + number % 3, 3 * product + 2)

  # Hypothesis first takes the smallest example, a prompt of one token; its program serves all later tokens too.
  @hypothesis.seed(number)
  @hypothesis.settings(max_examples=1 + (shortening + upsampling) % 2)
  @hypothesis.given(st.integers(1, 3 * product))
  def check_prompt(n_prompt):
    check(n_prompt)

  check_prompt()


@pytest.mark.parametrize('window, hierarchy, length', [
    (4, '1@1 2@3 1@1', 17), (1, '2@1', 9), (5, '1@1 1@2 1@4 1@2 0@1', 13), (40, '2@1', 9), (3, '0@1 2@2 1@1', 24)])
def test_attention_to_a_window_decodes_as_the_full_forward_pass(window, hierarchy, length, monkeypatch):
  monkeypatch.setitem(OPTIONS, 'local', dict.fromkeys(
      ('vanilla_attention', 'shortened_attention'), functools.partial(th.CausalLocalAttention, window=window)))
  check = checking(('average', 'repeat'), hierarchy, 'local', 2, length)
  for n_prompt in {1, 2, window, min(window + 2, length - 1), length - 2}:
    if n_prompt < length:
      check(n_prompt)


def test_window_caches_do_not_grow_with_max_length():
  state_bytes = {}
  for max_length in 30, 3000:
    model = pairs.ours('2@1', mode='predict', max_length=max_length, vanilla_attention=functools.partial(
        th.CausalLocalAttention, window=8))
    model.init(shapes.ShapeDtype((3, 1), np.int32))
    state_bytes[max_length] = model.state_bytes
  assert state_bytes[30] == state_bytes[3000] == 4 * (2 * (2 * 3 + 1) * 8 * pairs.D_MODEL + 2 + 1)


def test_a_flat_model_decodes_as_the_full_forward_pass():
  check = checking(pairs.ALL[0], '2@1', 'relative', 2, 6)
  check(1)
  check(4)


@hypothesis.settings(max_examples=sampling.examples(1, 200))  # Each compiles three programs.
@hypothesis.given(st.sampled_from(pairs.ALL), st.sampled_from(sorted(HIERARCHIES)),
                  st.sampled_from([*['relative'] * 4, 'rotary']), st.integers(1, 3), st.data())
def test_decoding_equals_the_full_forward_pass(pair, hierarchy, attention, batch, data):
  product = HIERARCHIES[hierarchy]
  n_prompt = data.draw(st.integers(1, 3 * product), 'prompt')
  check = checking(pair, hierarchy, attention, batch, n_prompt + 2 * product + 1)
  for n in {1, n_prompt}:
    check(n)


class Small:
  """Holds a hierarchical model in modes 'eval' and 'predict', with max_length 13.

  Attributes:
    model, forward: in mode 'eval', and its compiled function.
    cached, function, start: in mode 'predict', its compiled function and its state before a batch of two.
  """

  def __init__(self):
    self.model = pairs.initialise(pairs.ours('1@1 2@3 1@1'), 13)
    self.forward = pairs.forward(self.model)
    self.cached = predicting.predicting(self.model, '1@1 2@3 1@1', max_length=13)
    self.function = predicting.compiled(self.cached)
    self.start = self.cached.start(2)


@pytest.fixture(scope='module')
def small():
  return Small()


def test_decoding_across_cache_blocks_equals_a_full_pass(monkeypatch):
  monkeypatch.setattr(kv_cache, '_FIRST_BLOCK', 2)
  model = pairs.initialise(pairs.ours('1@1 1@2 0@1'), 11)
  cached = predicting.predicting(model, '1@1 1@2 0@1', max_length=11)
  x = pairs.tokens(11)
  expected = pairs.forward(model)(model.weights, x)
  np.testing.assert_allclose(predicting.decode(predicting.compiled(cached), cached, x, 5), expected, rtol=0, atol=1e-4)


def test_bfloat16_is_close_to_float32(small):
  to_bfloat16 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, tree)
  x = pairs.tokens(13)
  weights = to_bfloat16(small.model.weights)
  expected = np.asarray(small.forward(weights, x))
  exact = np.asarray(small.forward(small.model.weights, x))
  rounded = predicting.predicting(small.model, '1@1 2@3 1@1', max_length=13)
  rounded.weights = weights
  got = predicting.decode(small.function, rounded, x, 4, to_bfloat16(small.start))
  # Each activation is rounded to 8 bits, 0.4 %, in another order: decoding may be as far from the full pass in bfloat16
  # as that is from the exact one, some percent of the largest logit after four blocks, and no further than twice that.
  scale = np.abs(exact).max()
  assert np.abs(got - expected).max() < 0.06 * scale and np.abs(got - exact).max() < 0.06 * scale
  assert np.abs(got - exact).mean() < 2 * np.abs(expected - exact).mean()


@pytest.mark.parametrize('hierarchy, n_prompts', [('1@1 2@3 1@1', (1, 4, 6)), ('1@1 1@2 2@6 1@2 0@1', (1, 7))])
def test_coarse_levels_run_once_per_group(hierarchy, n_prompts):
  calls = collections.Counter()

  @plugins.decodes
  def counting(spec, tokens_per_vector):
    del spec
    def f(x):
      jax.debug.callback(lambda: calls.update([tokens_per_vector]))
      return x
    return tl.Fn('Counting', f)

  model = pairs.ours(hierarchy, 'average', 'repeat', mode='predict', max_length=20, vanilla_attention=counting,
                     shortened_attention=counting)
  model.init(shapes.ShapeDtype((2, 1), np.int32))
  function, x, state = predicting.compiled(model), pairs.tokens(20), model.start(2)
  for n_prompt in n_prompts:
    for length in [1, 3, 4, 20] if n_prompt == 1 else [20]:
      jax.effects_barrier()
      calls.clear()
      predicting.decode(function, model, x[:, :length], n_prompt, state)
      jax.effects_barrier()
      # Groups of a level that begin within the prompt run together, each later one when its first token comes.
      groups = lambda level: 1 + sum(i % level.total_factor == 0 for i in range(n_prompt, length))
      assert calls == {level.total_factor: (level.n_before + level.n_after) * groups(level)
                       for level in th.hierarchy.parse(hierarchy)}


BOTH = 'attention_average', 'attention_linear'


@pytest.mark.parametrize('hierarchy, batch, length, pair, attention', [
    ('2@1', 3, 7, BOTH, 'relative'), ('1@1 2@3 0@1', 2, 11, BOTH, 'relative'),
    ('1@1 1@2 1@4 0@2 2@1', 5, 9, BOTH, 'relative'), ('1@1 1@3 0@1', 5, 11, ('attention_average', 'repeat'), 'rotary'),
    ('0@1 1@3 1@1', 2, 8, ('linear', 'linear'), 'rotary')])
def test_state_bytes_predicts_the_size_of_the_state(hierarchy, batch, length, pair, attention):
  model = pairs.ours(hierarchy, *pair, mode='predict', max_length=length, **OPTIONS[attention])
  model.init(shapes.ShapeDtype((batch, 1), np.int32))
  d, counters = OPTIONS[attention].get('d_model', pairs.D_MODEL), 1  # One counts the tokens of the model.
  shortening_attends, upsampling_attends = (name.startswith('attention') for name in pair)
  levels = th.hierarchy.parse(hierarchy)
  n = lambda level: -(-length // level.total_factor)
  numbers = 0
  for level in levels:
    layers = level.n_before + level.n_after
    numbers += layers * (2 * batch + (attention == 'relative')) * n(level) * d
    counters += layers
  for level in levels[1:]:
    k = level.shorten_factor
    numbers += shortening_attends * (2 * batch + 1) * k * n(level) * d
    numbers += upsampling_attends * (2 * batch + k) * n(level) * d + 2 * batch * k * d
    counters += 2 + shortening_attends + upsampling_attends
  assert model.state_bytes == 4 * (numbers + counters)
  assert model.state_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(model.start(batch)))


def test_weights_are_the_same_in_all_modes(small):
  model, cached = small.model, small.cached
  initialised = pairs.ours('1@1 2@3 1@1', mode='predict')
  initialised.init(shapes.ShapeDtype((1, 1), np.int32))
  wanted = [w.shape for w in jax.tree.leaves(model.weights)]
  assert [w.shape for w in jax.tree.leaves(initialised.weights)] == wanted
  before = cached.weights, cached.state
  cached.start(4)
  assert all(a is b for a, b in zip(jax.tree.leaves(before), jax.tree.leaves((cached.weights, cached.state))))


@pytest.mark.parametrize('inputs', [None, np.array([[3, 1, 4, 1], [2, 7, 1, 8]])])
def test_trax_sampling_works_unchanged(small, inputs):
  cached = small.cached
  cached.state = small.start
  written = trax_decoding.autoregressive_sample(cached, inputs, batch_size=2, temperature=0.0, eos_id=-1, max_length=6)
  prompt = np.zeros((2, 0), np.int32) if inputs is None else inputs
  whole = np.concatenate([prompt, written], axis=1)
  padded = np.pad(whole, ((0, 0), (0, 13 - whole.shape[1]))).astype(np.int32)
  best = np.asarray(small.forward(small.model.weights, padded)).argmax(axis=-1)
  np.testing.assert_array_equal(written, best[:, prompt.shape[1]:whole.shape[1]])


@pytest.mark.parametrize('inputs', [None, np.array([[3, 1, 4, 1], [2, 7, 1, 8]])])
@pytest.mark.parametrize('first', sampling.some([True], [False, True]))
def test_trax_sampling_can_be_repeated(small, inputs, first):
  def sample(accelerate, n=6, inputs=inputs, batch_size=2):
    try:
      return trax_decoding.autoregressive_sample(cached, inputs, batch_size=batch_size, temperature=0.0, eos_id=-1,
                                                 max_length=n, accelerate=accelerate).tolist()
    except errors.InputError as error:
      return str(error)

  cached = small.cached
  cached.state = small.start
  expected = sample(first)
  if inputs is None:  # Sampling continues from the model's state.
    assert not isinstance(sample(first), str)
  # Each call meets the same state, so all give the same error.
  again = {sample(accelerate) for accelerate in (first, not first, first)}
  assert len(again) == 1 and ('14 tokens are more than max_length 13' if inputs is None else
                              'several tokens at once after 10') in again.pop()
  for accelerate in first, not first, first:
    cached.state = small.start
    assert sample(accelerate, inputs=np.ones((3, 2), np.int32), batch_size=3).startswith(
        'the tokens are of 3 sequences and the state of 2: initialise the model for 3, or give it the state that')
    assert sample(accelerate) == expected


def test_tokens_beyond_max_length_are_refused(small):
  cached = small.cached
  x, message = pairs.tokens(14), '14 tokens are more than max_length 13.*Hourglass.max_length'
  cached.state = small.start
  with pytest.raises(ValueError, match=message):
    cached(x)
  with pytest.raises(ValueError, match=message):
    trax_decoding.autoregressive_sample(cached, batch_size=2, eos_id=-1, max_length=20)
  logits = predicting.decode(small.function, cached, x, 1, small.start)  # Compiled code cannot raise: NaN.
  assert np.isfinite(logits[:, :13]).all() and np.isnan(logits[:, 13:]).all()


def test_several_tokens_in_a_later_call_are_refused(small):
  cached, function = small.cached, small.function
  x = pairs.tokens(6)
  cached.state = small.start
  _, state = function(cached.weights, cached.state, x[:, :1])
  with pytest.raises(ValueError, match='several tokens at once after 1: only the first call'):
    cached(x, state=state)
  assert np.isnan(function(cached.weights, state, x)[0]).all()
  cached.state = small.start


@pytest.mark.parametrize('options, message', [
    ({'max_length': 0}, 'max_length is 0'),
    ({'vanilla_attention': lambda spec, _: th.CausalRelativeAttention(spec, 1)}, None),
    ({'vanilla_attention': lambda spec, _: tl.Serial()}, "attention = @<lambda> has no mode 'predict'.*decodes"),
    ({'shortening': lambda *_: tl.AveragePooling(3)}, "shortening = @<lambda> has no mode 'predict'"),
    ({'upsampling': lambda *_: tl.Serial()}, "upsampling = @<lambda> has no mode 'predict'"),
    ({'upsampling': lambda *a: th.UpsampleByAttention(*a, added=lambda *_: tl.Serial())},
     'Attention.added = @<lambda> has no mode'),
    ({'shortening': lambda *a: th.ShortenByAttention(*a, query=lambda *_: tl.Serial())},
     'Attention.query = @<lambda> has no mode'),
    ({'shortened_attention': functools.partial(th.TraxAttention, layer=tl.CausalAttention)}, "no mode 'predict'"),
    ({'shortening': th.ShortenAtBoundaries, 'upsampling': th.UpsampleFromBoundaries, 'boundaries': th.EndOfWord,
      'shortened_attention': functools.partial(th.CausalLocalAttention, window=9)},
     "CausalLocalAttention below boundaries has no mode 'predict'"),
])
def test_layers_that_cannot_decode_are_refused(options, message):
  build = lambda: th.Hourglass(11, '1@1 1@3 1@1', 14, 10, 7, mode='predict', **options)
  if message is None:
    build()
  else:
    with pytest.raises(ValueError, match=message):
      build()
