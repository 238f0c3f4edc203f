"""Windows that score each token of a split exactly once, most of them with context from before.

A window is `length` tokens, and the next one begins `stride` tokens later. All but the first score their last `stride`
tokens, each of which so has at least `length - stride` tokens of context; the first scores all of its own. With a
stride of the length windows lie behind each other and score all they hold. Examples of fixed length, such as images,
are each a text of their own. What is missing of a last window is filled up at its end, where a causal model cannot see
it.

Letters: L tokens of a window, S scored tokens of a window, W windows, B rows of a batch, H hosts.
"""

import dataclasses

import numpy as np

from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Windows:
  """Windows that score equally many tokens, but for those at an end.

  Attributes:
    starts: (W,) where each begins in the split.
    ends: (W,) where the text that it lies in ends.
    length: L.
    n_scored: S, the window's last tokens; with less text than that, those of them that exist.
  """
  starts: np.ndarray
  ends: np.ndarray
  length: int
  n_scored: int

  @property
  def counts(self):
    """Scored tokens of each window, (W,)."""
    return np.minimum(self.n_scored, self.ends - self.starts - (self.length - self.n_scored))

  def spread(self, n):
    """Returns n of the windows, from all parts of the split; all of them where there are no more."""
    chosen = (2 * np.arange(n) + 1) * len(self.starts) // (2 * n) if n < len(self.starts) else slice(None)
    return dataclasses.replace(self, starts=self.starts[chosen], ends=self.ends[chosen])

  def batches(self, data, batch_size, n_rows=None, host=0, n_hosts=1):
    """Yields this host's rows of all windows in batches.

    Args:
      data: the split.
      batch_size: windows of a batch.
      n_rows: B, at least batch_size and divided by H; rows beyond the windows are empty. None for batch_size.
      host: number of this host, which reads its own rows only.
      n_hosts: H.

    Yields:
      (tokens (B / H, L) int32, weights (B / H, S) float32: 1 for each token that exists), and the counts of the batch's
      windows on all hosts.
    """
    own, counts = (n_rows or batch_size) // n_hosts, self.counts
    for first in range(0, len(self.starts), batch_size):
      last = min(first + batch_size, len(self.starts))
      tokens = np.zeros((own, self.length), np.int32)
      weights = np.zeros((own, self.n_scored), np.float32)
      for row, window in enumerate(range(first + host * own, min(first + (host + 1) * own, last))):
        n_tokens = min(self.length, self.ends[window] - self.starts[window])
        tokens[row, :n_tokens] = data.read(int(self.starts[window]), int(n_tokens))
        weights[row, :counts[window]] = 1
      yield tokens, weights, counts[first:last]


def sizes(length, stride=None, example_length=None):
  """Returns (L, stride) of windows over a split.

  Args:
    length: tokens of a window; an example that is not longer is one window.
    stride: tokens that windows move by, 1 .. L; None for L.
    example_length: tokens of an example, or None where the split is one text.

  Raises:
    InputError: sizes out of their range.
  """
  stride = length if stride is None else stride
  checks.check_sizes(length=length, stride=stride)
  if stride > length:
    raise InputError(f'stride {stride} is larger than the window of {length} tokens, so tokens would be left out: give '
                     f'at most {length}')
  if example_length is not None and example_length <= length:
    return example_length, example_length
  return length, stride


def plan(n_tokens, length, stride, example_length=None):
  """Returns the Windows of a split in groups: those that score all their tokens, then, if there are any, those with
  context.

  Args:
    n_tokens: tokens of the split, at least 1.
    length: L.
    stride: tokens that windows move by.
    example_length: tokens of an example, or None where the split is one text.
  """
  step = example_length or n_tokens
  texts = [(start, min(start + step, n_tokens)) for start in range(0, n_tokens, step)]
  if stride == length:  # One group, so that batches are full and of one shape.
    return [_windows(texts, [np.arange(start, end, length) for start, end in texts], length, length)]
  groups = [_windows(texts, [np.array([start]) for start, _ in texts], length, length)]
  # A window from s on scores tokens from s + L - S on, and is needed if there are any before the end.
  later = [np.arange(start + stride, end - (length - stride), stride) for start, end in texts]
  if any(map(len, later)):
    groups.append(_windows(texts, later, length, stride))
  return groups


def _windows(texts, starts, length, n_scored):
  """Returns Windows from the (start, end) of each text and the starts of its windows."""
  ends = np.repeat([end for _, end in texts], [len(s) for s in starts])
  return Windows(np.concatenate(starts), ends, length, n_scored)
