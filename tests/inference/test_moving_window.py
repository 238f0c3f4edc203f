"""Tests sampling beyond max_length: each part equals sampling from its window, and no token is lost between parts."""

import numpy as np
import pytest
from trax import shapes

from tests.helpers import pairs
from trax_hourglass.inference import decoding
from trax_hourglass.inference import moving_window

ROOM, WINDOW = 12, 5


@pytest.fixture(scope='module')
def model():
  made = pairs.ours('0@1 1@2 0@1', 'average', 'repeat', mode='predict', max_length=ROOM)
  made.init(shapes.ShapeDtype((1, 1), np.int32))
  return made


def whole(sampler, prompts, length, window=WINDOW, seed=0):
  pieces = list(moving_window.stream(sampler, prompts, length, window, seed))
  return [np.concatenate([piece[row].tokens for piece in pieces]).tolist() for row in range(len(prompts))]


def test_each_part_continues_from_the_last_tokens(model):
  sampler = decoding.Sampler(model, decoding.Choice(temperature=0.0), piece=4)
  prompt = [3, 1, 4]
  text = list(prompt)
  for n in (ROOM - 3, ROOM - WINDOW, ROOM - WINDOW, 2):
    begun = text if text == prompt else text[-WINDOW:]
    text += sampler.sample([begun], n)[0].tokens.tolist()
  assert whole(sampler, [prompt], 25) == [text[3:]]


def test_parts_use_distinct_keys_derived_from_the_seed(model):
  sampler = decoding.Sampler(model, piece=4)
  first = whole(sampler, [[3], [1, 4, 1, 5]], 40, seed=7)
  assert [len(tokens) for tokens in first] == [40, 40] and first == whole(sampler, [[3], [1, 4, 1, 5]], 40, seed=7)
  room = ROOM - 4
  assert [tokens[:room] for tokens in first] == [
      sample.tokens.tolist() for sample in sampler.sample([[3], [1, 4, 1, 5]], room, seed=7)]
  assert first != whole(sampler, [[3], [1, 4, 1, 5]], 40, seed=8)


def test_stopped_sequences_write_no_more_tokens(model):
  free = whole(decoding.Sampler(model, piece=4), [[3], [1, 4]], 60, seed=1)
  stop = free[0][20]
  found = whole(decoding.Sampler(model, piece=4, stop=stop), [[3], [1, 4]], 60, seed=1)
  for tokens, of_free in zip(found, free):
    n = of_free.index(stop) + 1 if stop in of_free else 60
    # The first part equals that of free sampling. A later part begins when every sequence has stopped or is full.
    assert tokens[:min(n, ROOM - 2)] == of_free[:min(n, ROOM - 2)]
    assert stop not in tokens[:-1] and (tokens[-1] == stop or len(tokens) == 60)


def test_only_the_end_of_a_long_prompt_is_read(model):
  sampler = decoding.Sampler(model, decoding.Choice(temperature=0.0))
  long = list(range(11)) * 3
  assert whole(sampler, [long], 5) == [sampler.sample([long[-WINDOW:]], 5)[0].tokens.tolist()]


@pytest.mark.parametrize('prompts, length, seed, message', [([], 5, 0, '0 prompts'), ([[3]], 0, 0, 'length is 0'),
                                                            ([[3]], 5, -1, 'seed is -1'), ([[99]], 5, 0, 'token 99')])
def test_invalid_arguments_fail_before_the_first_token(model, prompts, length, seed, message):
  with pytest.raises(ValueError, match=message):
    moving_window.stream(decoding.Sampler(model), prompts, length, WINDOW, seed)


@pytest.mark.parametrize('window, message', [(0, 'window is 0'), (ROOM, 'window is 12: give fewer tokens than the 12')])
def test_invalid_windows_are_refused(model, window, message):
  with pytest.raises(ValueError, match=message):
    whole(decoding.Sampler(model), [[3]], 5, window)
