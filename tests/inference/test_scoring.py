"""Tests scoring: every token once for any windows, equal to a plain loop, with standard error and units."""

import functools
import math

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import numpy as np
from tests.helpers import sampling
from tests.helpers import pairs
import pytest
import trax
from trax import layers as tl

from trax_hourglass.inference import scoring
from trax_hourglass.inference import windows as windows_lib
from trax_hourglass.runtime import progress as progress_lib
from trax_hourglass.training import evaluate_run
from tests.helpers import corpora


class Examples(corpora.Numbers):
  """Serves the bytes 0, 1, 2 ... as examples of equal length."""

  def __init__(self, n, example_length):
    super().__init__(n)
    self.example_length = example_length


@settings(max_examples=sampling.examples(30, 200))
@given(n=st.integers(1, 60), length=st.integers(1, 12), stride=st.integers(1, 12), batch=st.integers(1, 5),
       n_hosts=st.integers(1, 3), rows_more=st.integers(0, 3), example=st.none() | st.integers(1, 20))
def test_every_token_is_scored_once_with_its_context(n, length, stride, batch, n_hosts, rows_more, example):
  length, stride = windows_lib.sizes(length, min(stride, length), example)
  n_rows = -(-(batch + rows_more) // n_hosts) * n_hosts
  scored = []
  for windows in windows_lib.plan(n, length, stride, example):
    hosts = [windows.batches(corpora.Numbers(n), batch, n_rows, host, n_hosts) for host in range(n_hosts)]
    for parts in zip(*hosts, strict=True):
      assert {tokens.shape for tokens, _, _ in parts} == {(n_rows // n_hosts, windows.length)}
      tokens, weights = (np.concatenate([part[i] for part in parts]) for i in range(2))
      counts = parts[0][2]
      np.testing.assert_array_equal(weights.sum(axis=1)[:len(counts)], counts)
      assert weights.sum() == counts.sum() and all(counts > 0)
      for row, count in zip(tokens, counts):
        first_scored = windows.length - windows.n_scored
        begin, here = row[0], row[first_scored:first_scored + count]
        scored.extend(here)
        np.testing.assert_array_equal(row[:first_scored + count], np.arange(begin, begin + first_scored + count))
        if example is not None:
          assert begin // example == here[-1] // example
        start_of_text = begin % (example or n + 1) == 0
        assert start_of_text or here[0] - begin == length - stride
  assert sorted(scored) == list(range(n))


@given(n_windows=st.integers(1, 60), n=st.integers(1, 70))
def test_sampled_windows_come_from_all_parts_of_the_split(n_windows, n):
  windows, = windows_lib.plan(5 * n_windows, 5, 5)
  starts = windows.spread(n).starts
  assert len(starts) == min(n, n_windows) and len(set(starts)) == len(starts)
  bounds = np.linspace(0, 5 * n_windows, len(starts) + 1)
  assert all(first - 5 < start < last for start, first, last in zip(starts, bounds, bounds[1:]))


def counts_by_hand(n, length, stride, example=None):
  return [list(zip(w.starts, w.counts)) for w in windows_lib.plan(n, length, stride, example)]


def test_windows_by_hand():
  assert counts_by_hand(9, 4, 2) == [[(0, 4)], [(2, 2), (4, 2), (6, 1)]]
  assert counts_by_hand(9, 4, 4) == [[(0, 4), (4, 4), (8, 1)]]  # One group, whose batches have equal shapes.
  assert counts_by_hand(3, 4, 2) == [[(0, 3)]]
  assert counts_by_hand(10, 3, 2, example=5) == [[(0, 3), (5, 3)], [(2, 2), (7, 2)]]
  assert windows_lib.sizes(8, 2, example_length=5) == (5, 5)


@pytest.fixture(scope='module')
def model():
  return pairs.initialise(pairs.ours('0@1 1@3 0@1', vocab_size=251), 6)


@pytest.fixture(scope='module')
def scorer(model):
  return scoring.Scorer(model)


def by_loop(model, n, length, stride):
  """Returns the bits of each token of 0, 1, 2 ..., by one forward pass per window, as the protocols describe."""
  log_p = jax.jit(lambda x: jax.nn.log_softmax(model.pure_fn(x, model.weights, model.state, jax.random.PRNGKey(0))[0]))
  bits = {}
  for start in range(0, n, stride):
    window = np.arange(start, min(start + length, n))
    padded = np.zeros((1, length), np.int32)
    padded[0, :len(window)] = window
    out = log_p(padded)[0]
    for place, token in enumerate(window):
      if token not in bits:
        bits[token] = -float(out[place, token]) / math.log(2)
  return [bits[token] for token in range(n)]


@pytest.mark.parametrize('length, stride', [(12, 4), (7, 7), (12, 5)])
def test_score_equals_a_plain_loop_for_any_batch_size(model, scorer, length, stride):
  expected = by_loop(model, 31, length, stride)
  for batch_size in (1, 4, 11):
    got = scorer.score(model.weights, model.state, corpora.Numbers(31), batch_size, length, stride)
    np.testing.assert_allclose(got.bits_per_token, np.mean(expected), rtol=1e-5)
    assert (got.n_tokens, got.length, got.stride, got.context) == (31, length, stride, length - stride)
    assert got.tokens_per_second > 0 and got.seconds > 0


def test_score_of_the_first_tokens_only(model, scorer):
  got = scorer.score(model.weights, model.state, corpora.Numbers(31), 4, 12, 4, max_tokens=19)
  assert got.n_tokens == 19
  np.testing.assert_allclose(got.bits_per_token, np.mean(by_loop(model, 19, 12, 4)), rtol=1e-5)


def test_logits_in_chunks_give_the_same_score(model, scorer):
  for stride in (12, 5):
    arguments = model.weights, model.state, corpora.Numbers(31), 4, 12, stride
    np.testing.assert_allclose(
        scoring.Scorer(model, chunk=4).score(*arguments).bits_per_token,
        scorer.score(*arguments).bits_per_token, rtol=1e-5)


def test_logits_exist_for_scored_tokens_only(model, scorer):
  """In the compiled program of a window of 48 tokens no array has logits of more than the 4 that are scored."""
  arguments = model.weights, model.state, np.zeros((2, 48), np.int32), np.ones((2, 4), np.float32)
  text = scorer.nats.lower(*arguments).as_text()
  assert '2x4x251x' in text and '48x251x' not in text


def test_whole_examples_are_scored(model, scorer):
  got = scorer.score(model.weights, model.state, Examples(24, 6), 3, 6)
  windows = [np.arange(start, start + 6) for start in range(0, 24, 6)]
  out = jax.nn.log_softmax(pairs.forward(model)(model.weights, np.stack(windows)))
  bits = np.array([[-out[i, j, token] / math.log(2) for j, token in enumerate(w)] for i, w in enumerate(windows)])
  np.testing.assert_allclose(got.bits_per_token, bits.mean(), rtol=1e-5)
  # With windows of equal size, this is the usual standard error of a mean.
  np.testing.assert_allclose(got.standard_error, bits.mean(axis=1).std(ddof=1) / 2, rtol=1e-4)
  assert got.n_windows == 4
  long = scorer.score(model.weights, model.state, Examples(24, 6), 3, 100, 7)
  assert (long.bits_per_token, long.length, long.stride) == (got.bits_per_token, 6, 6)


def test_error_of_windows_of_unequal_size_by_hand():
  tally = scoring._Tally(5, None)
  bits = np.array([[1.0, 2.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0] * 4])  # The third row is padding.
  tally.add(bits * math.log(2), np.array([4, 1]))
  score = tally.score(4, 4, 1.0)
  # Mean 4 / 5; windows are off by 3 - 4 * .8 = -.2 and 1 - .8 = .2; sqrt(2 * (.04 + .04)) / 5.
  np.testing.assert_allclose([score.bits_per_token, score.standard_error], [0.8, 0.08], rtol=1e-6)
  alone = scoring._Tally(1, None)
  alone.add(np.array([[3.0]]), np.array([1]))
  assert alone.score(4, 4, 1.0).standard_error is None


@functools.lru_cache
def uniform():
  """Returns a model that gives all 256 tokens the same probability."""
  model = tl.Serial(tl.Embedding(256, 3), tl.Dense(256))
  model.init(trax.shapes.signature(pairs.tokens(5)))
  model.weights = jax.tree.map(np.zeros_like, model.weights)
  return model


@pytest.mark.parametrize('data', [corpora.Numbers(101), Examples(84, 12), corpora.Numbers(1)])
def test_uniform_model_scores_eight_bits(data):
  for batch_size, length, stride in ((1, 7, 7), (3, 10, 3), (50, 100, 1)):
    seen = []
    result = scoring.score(uniform(), data, batch_size, length, stride, on_batch=lambda *now: seen.append(now))
    assert result.n_tokens == len(data) and abs(result.bits_per_token - 8) < 3e-6  # 5 nats in float32.
    assert (result.standard_error or 0) < 1e-6
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen) and seen[-1][:2] == (len(data),) * 2
    assert all(abs(bits - 8) < 3e-6 for _, _, bits in seen)


@pytest.mark.parametrize('options, message', [({'batch_size': 0}, 'batch_size is 0'), ({'length': 0}, 'length is 0'),
                                              ({'stride': 0}, 'stride is 0'),
                                              ({'stride': 7}, 'stride 7 is larger than the window of 6'),
                                              ({'max_tokens': 0}, 'nothing to score'),
                                              ({'data': corpora.Numbers(0)}, 'nothing to score'),])
def test_invalid_sizes_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    scoring.score(**{'model': uniform(), 'data': corpora.Numbers(9), 'batch_size': 2, 'length': 6, **options})


@pytest.mark.parametrize('arguments, expected', [((None, None, None, 99), (99, 99)),
                                                 (('paper', None, None, 99), (4096, 128)),
                                                 (('ablation', None, None, 99), (2048, 2048)),
                                                 (('notebook', None, None, 99), (6912, 128)),
                                                 ((None, 10, None, 99), (99, 89)), ((None, None, 10, 99), (99, 10)),
                                                 ((None, 10, 5, 99), (15, 5)),
                                                 (('paper', 1000, None, 99), (4096, 3096)),
                                                 (('paper', None, None, 99, 12), (12, 12)),
                                                 ((None, 8, None, 99, 12), (12, 4)),])
def test_windows_of_protocols_and_flags(arguments, expected):
  assert evaluate_run.window_sizes(*arguments) == expected


@pytest.mark.parametrize('arguments, message',
                         [(('papers', None, None, 99), "'papers' does not exist: choose one of paper"),
                          ((None, -1, None, 99), 'context is -1'), ((None, None, 0, 99), 'stride is 0'),
                          ((None, 99, None, 99), 'give both'), ((None, None, 100, 99), 'give both'),])
def test_invalid_windows_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    evaluate_run.window_sizes(*arguments)


def test_progress_prints_running_bits_in_plain_lines(monkeypatch, capsys):
  clock = iter([20.0, 30.0, 60.0])  # After each of three batches.
  monkeypatch.setattr(progress_lib.time, 'monotonic', lambda: next(clock))
  with progress_lib.Progress('scoring', 'dim') as progress:
    for n_done, bits in ((100, 8.0), (200, 7.5), (500, 7.25)):
      scoring.shown_by(progress, 'dim')(n_done, 1000, bits)
  assert capsys.readouterr().err.splitlines() == [
      'scoring 100/1000: 8.0000 bits/dim', 'scoring 500/1000: 7.2500 bits/dim, 10 dims/s, 50 s left'
  ]


def test_speed_and_time_left_count_neither_compilation_nor_pauses(monkeypatch, capsys):
  clock = iter([0.0, 100.0, 150.0])
  monkeypatch.setattr(progress_lib.time, 'monotonic', lambda: next(clock))
  progress = progress_lib.Progress('step', 'token', per_item=20)
  progress.begin(4, 15)
  progress.show(5, 15, 'a')
  progress.show(10, 15, 'b', seconds_paused=40.0)
  assert capsys.readouterr().err.splitlines() == [
      'compiling ...', 'step 5/15: a, compiled in 100 s', 'step 10/15: b, 10 tokens/s, 10 s left']
