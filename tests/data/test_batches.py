"""Tests batches: epochs visit every window once, hosts partition a batch, prefetching preserves the batches."""

import gc
import itertools
import threading

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.helpers import corpora
from trax_hourglass.data import batches
from trax_hourglass.data import permutation
from trax_hourglass.data import prefetch
from trax_hourglass.runtime import seeds


class Positions(corpora.Numbers):
  """A split in which each token equals its position."""

  def read(self, start, length):
    assert 0 <= start and start + length <= self._n
    return np.arange(start, start + length)


def stream(kind, n, batch_size, length, seed=0, host=0, n_hosts=1, step=0, example_length=None):
  windows = kind(Positions(n, example_length), batch_size, length, seed, 1 << 30, host, n_hosts)
  windows.step = step
  return windows


def keys(seed):
  return np.random.default_rng(seed).integers(0, 1 << 64, permutation.N_KEYS, np.uint64)


@given(n=st.integers(1, 300), seed=st.integers(0, 1000))
def test_permuted_numbers_are_a_permutation(n, seed):
  assert sorted(permutation.permuted(np.arange(n), n, keys(seed))) == list(range(n))


@given(n=st.integers(1 << 32, 1 << 62), seed=st.integers(0, 1000))
def test_large_permutations_stay_in_range_without_duplicates(n, seed):
  numbers = np.array([i * (n - 1) // 100 for i in range(101)])  # np.linspace would round the last one up to n.
  there = permutation.permuted(numbers, n, keys(seed))
  assert len(set(there.tolist())) == 101 and there.min() >= 0 and there.max() < n


def test_permuted_positions_are_uniform_over_seeds():
  n, times = 13, 2600
  counts = np.zeros((n, n))
  for seed in range(times):
    counts[np.arange(n), permutation.permuted(np.arange(n), n, keys(seed))] += 1
  chi_squared = ((counts - times / n)**2 / (times / n)).sum()
  assert chi_squared < 144 + 5 * np.sqrt(2 * 144)  # (13 - 1)^2 degrees of freedom, five standard deviations.


@settings(max_examples=40)  # Each computes many short epochs.
@given(n=st.integers(5, 200), batch=st.integers(1, 7), length=st.integers(1, 5), seed=st.integers(0, 9))
def test_an_epoch_visits_each_text_window_once(n, batch, length, seed):
  rows = itertools.chain.from_iterable(tokens for tokens, _, _ in stream(batches.Epochs, n, batch, length, seed))
  n_windows = max(1, (n - length + 1) // length)
  for _ in range(3):
    starts = sorted(int(row[0]) for row in itertools.islice(rows, n_windows))
    assert np.diff(starts).tolist() == [length] * (n_windows - 1)
    assert 0 <= starts[0] < length and starts[-1] + length <= n and n - n_windows * length < 2 * length


def test_epochs_differ_in_window_order_and_offset():
  starts = stream(batches.Epochs, 1000, 100, 9).starts
  first, second = (starts(step) for step in (0, 11))
  assert len({*(first % 9)} | {*(second % 9)}) > 1 and (first != second).any() and (np.diff(first) != 9).any()


@settings(max_examples=40)  # Each computes many short epochs.
@given(n=st.integers(1, 30), windows=st.integers(1, 2), batch=st.integers(1, 7), seed=st.integers(0, 9))
def test_an_epoch_visits_each_example_once_and_whole(n, windows, batch, seed):
  n = max(n, windows)
  rows = itertools.chain.from_iterable(
      tokens for tokens, _, _ in stream(batches.Epochs, 7 * n, batch, 7 * windows, seed, example_length=7))
  starts = [int(row[0]) for row in itertools.islice(rows, n // windows)]
  assert len(set(starts)) == n // windows and all(start % 7 == 0 for start in starts)
  if windows == 1:
    assert sorted(starts) == [7 * i for i in range(n)]


def test_random_windows_start_at_every_example():
  windows = stream(batches.RandomWindows, 35, 50, 7, example_length=7)
  assert set(windows.starts(0).tolist()) == {0, 7, 14, 21, 28}


@given(kind=st.sampled_from([batches.RandomWindows, batches.Epochs]), batch=st.integers(1, 4), n_hosts=st.integers(
    1, 4), step=st.integers(0, 60), example_length=st.sampled_from([None, 5]))
def test_host_batches_concatenate_to_the_single_host_batch(kind, batch, n_hosts, step, example_length):

  def take(host, n_hosts_):
    return next(stream(kind, 200, batch * n_hosts, 5, 3, host, n_hosts_, step, example_length))[0]

  np.testing.assert_array_equal(np.concatenate([take(host, n_hosts) for host in range(n_hosts)]), take(0, 1))


def test_host_batches_of_an_epoch_are_disjoint():
  hosts = [stream(batches.Epochs, 600, 12, 11, 5, host, 2) for host in range(2)]
  for _ in range(4):  # 48 of 53 windows, within an epoch.
    ours, theirs = (set(next(host)[0].ravel().tolist()) for host in hosts)
    assert len(ours) == len(theirs) == 66 and not ours & theirs


@given(kind=st.sampled_from([batches.RandomWindows, batches.Epochs]), first=st.integers(0, 500))
def test_a_resumed_stream_gives_the_batch_of_its_step(kind, first):
  resumed, whole = stream(kind, 200, 3, 10, step=first), stream(kind, 200, 3, 10)
  np.testing.assert_array_equal(next(resumed)[0][:, 0], whole.starts(first))
  assert resumed.step == first + 1


@pytest.mark.parametrize('kind', [batches.RandomWindows, batches.Epochs])
def test_large_seeds_give_different_windows(kind):
  """Large seeds that are equal in float64 give different windows, and small seeds give the same windows as before."""
  starts = [stream(kind, 10_000, 8, 10, (1 << 63) - n).starts(3).tolist() for n in (1, 2, 3)]
  assert len(set(map(tuple, starts))) == 3
  for seed in (0, 1, 12345):  # The streams of small seeds are unchanged.
    np.testing.assert_array_equal(seeds.philox(seed, 3).random_raw(4), np.random.Philox(key=[seed, 3]).random_raw(4))


def test_random_windows_of_two_hosts_may_coincide():
  ours, theirs = (set(next(stream(batches.RandomWindows, 20, 100, 10, 0, host, 2))[0][:, 0]) for host in range(2))
  assert ours & theirs


def test_invalid_window_settings_are_refused():
  with pytest.raises(ValueError, match='length 10 cuts examples of 7 tokens: set length = 7'):
    stream(batches.Epochs, 70, 1, 10, example_length=7)
  for seed in (-1, 1.5, None, 1 << 63):
    with pytest.raises(ValueError, match=f'seed is {seed}'):
      stream(batches.RandomWindows, 70, 1, 10, seed)


def prefetch_threads():
  return [thread for thread in threading.enumerate() if thread.name.startswith('prefetch')]


def test_prefetched_batches_equal_plain_ones_from_any_step():
  ahead, plain = prefetch.Prefetched(stream(batches.Epochs, 200, 3, 10)), stream(batches.Epochs, 200, 3, 10)
  for step in (0, 1, 2, 7, 3, 4):
    ahead.step = plain.step = step
    for a, b in zip(next(ahead), next(plain)):
      np.testing.assert_array_equal(a, b)
    assert ahead.step == plain.step == step + 1
  ahead.close()


def test_prefetching_is_bounded_by_depth_and_its_thread_ends():
  made = []

  class Counting(batches.RandomWindows):

    def __next__(self):
      made.append(self.step)
      return super().__next__()

  ahead = prefetch.Prefetched(Counting(Positions(200), 3, 10, 0, 1 << 30), depth=3)
  next(ahead)
  thread, = prefetch_threads()
  ahead.close()
  assert not thread.is_alive() and len(made) <= 1 + 3
  assert ahead.step == 1  # Prefetched batches do not advance the step.
  np.testing.assert_array_equal(next(ahead)[0][:, 0], stream(batches.RandomWindows, 200, 3, 10).starts(1))
  thread, = prefetch_threads()
  del ahead
  gc.collect()
  thread.join(10)
  assert not thread.is_alive()


def test_prefetch_errors_are_raised_at_their_batch():

  class Failing(batches.RandomWindows):

    def __next__(self):
      if self.step == 2:
        raise ValueError('batch 2 is bad')
      return super().__next__()

  ahead = prefetch.Prefetched(Failing(Positions(200), 3, 10, 0, 1 << 30))
  next(ahead), next(ahead)
  for _ in range(2):  # The second call raises again instead of waiting for the ended thread.
    with pytest.raises(ValueError, match='batch 2 is bad'):
      next(ahead)
  assert not prefetch_threads() and ahead.seconds_waited > 0
  with pytest.raises(ValueError, match='depth is 0'):
    prefetch.Prefetched(Failing(Positions(200), 3, 10, 0, 1 << 30), depth=0)
