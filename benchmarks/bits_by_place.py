"""Reports the bits of trained models by position in a group, position in the window, and letter of a word.

    python benchmarks/bits_by_place.py DIR [DIR ...] [--windows 400] [--factors 3,4] [--json]

Each DIR is a run directory, for example that of one row and seed of a comparison. All runs score the first windows of
the first run's valid split, each as long as that run's training windows. "more" is the difference from the first run.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import numpy as np  # pylint: disable=wrong-import-position

from trax_hourglass.comparison.report import markdown  # pylint: disable=wrong-import-position
from trax_hourglass.inference import decoding  # pylint: disable=wrong-import-position
from trax_hourglass.training import run_directory  # pylint: disable=wrong-import-position

_AT_ONCE = 16  # Windows.
_START = 24  # Initial positions left out of the comparison of groups: their context is short and unequal.
_LETTERS = 5


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('runs', nargs='+', metavar='DIR', help='run directories of models with the same vocabulary')
  parser.add_argument('--windows', type=int, default=400, help='number of windows to score')
  parser.add_argument('--factors', default='3,4', help='group sizes, comma-separated')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  args = parser.parse_args()
  args.factors = [int(factor) for factor in args.factors.split(',')]
  return args


def read(n_windows):
  """Returns the first windows of the opened run's valid split, (windows, L)."""
  data, length = run_directory.setting('corpus').split('valid'), run_directory.setting('length')
  n_windows = min(n_windows, len(data) // length)
  if n_windows < 1:
    raise ValueError(f'{len(data)} bytes of valid and --windows leave no window of {length}: give a longer split')
  return np.asarray(data.read(0, n_windows * length)).reshape(n_windows, length)


def score(model, texts):
  """Returns bits (windows, L) of each token under a model."""
  scores = [decoding.score(model, texts[i:i + _AT_ONCE]) for i in range(0, len(texts), _AT_ONCE)]
  return -np.stack([window for batch in scores for window in batch]) / np.log(2)


def places(texts, factors):
  """Returns {name of a set of positions: mask (windows, L)}.

  Args:
    texts: bytes (windows, L).
    factors: sizes of groups.
  """
  place = np.arange(texts.shape[1])[None].repeat(len(texts), axis=0)
  masks = {'all': place >= 0}
  for factor in factors:
    for offset in range(factor):
      masks[f'place {offset} in groups of {factor}'] = (place % factor == offset) & (place >= _START)
  edges = [edge for edge in (0, 8, 32, 128, *range(256, texts.shape[1], 256)) if edge < texts.shape[1]
          ] + [texts.shape[1]]
  for begin, end in zip(edges, edges[1:]):
    masks[f'bytes {begin} to {end - 1} of a window'] = (place >= begin) & (place < end)
  is_letter = np.isin(texts, np.frombuffer(bytes(range(65, 91)) + bytes(range(97, 123)), np.uint8))
  number = np.zeros_like(place)  # Of the letter in its word, from 1; a window may begin within a word.
  for i in range(texts.shape[1]):
    number[:, i] = np.where(is_letter[:, i], 1 + (number[:, i - 1] if i else 0), 0)
  for letter in range(1, _LETTERS):
    masks[f'letter {letter} of a word'] = number == letter
  masks[f'letter {_LETTERS} of a word and later'] = number >= _LETTERS
  masks['not a letter'] = ~is_letter
  return {name: mask for name, mask in masks.items() if mask.any()}


def measure(args):
  """Returns the table's rows, one per set of positions."""
  paths = [os.path.abspath(run) for run in args.runs]
  common = os.path.commonpath(paths) if len(set(paths)) > 1 else os.path.dirname(paths[0])
  texts, bits = None, {}
  for path in paths:
    model = run_directory.load(path).model
    texts = read(args.windows) if texts is None else texts
    bits[os.path.relpath(path, common)] = score(model, texts)
  (_, first), *others = bits.items()
  rows = []
  for name, mask in places(texts, args.factors).items():
    row = {'bytes': name, 'share': float(mask.mean())}
    row.update({run: float(of_run[mask].mean()) for run, of_run in bits.items()})
    row.update({f'{run}, more': float((of_run - first)[mask].mean()) for run, of_run in others})
    rows.append(row)
  return rows


def main():
  args = parse_arguments()
  rows = measure(args)
  print(json.dumps({'rows': rows}) if args.json else markdown(rows, list(rows[0])))


if __name__ == '__main__':
  main()
