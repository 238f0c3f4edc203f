"""Plans windows that score each token of a split exactly once, most tokens with earlier context.

A window has `length` tokens, and the next window starts `stride` tokens later. The first window scores all its tokens.
Every other window scores its last `stride` tokens, each with at least `length - stride` tokens of context. With a
stride equal to the length, windows do not overlap and score all their tokens. Each example of fixed length, such as an
image, is a separate text. A last, shorter window is padded at its end, which a causal model cannot see.

Letters: L tokens of a window, S scored tokens of a window, W windows, B rows of a batch, H hosts.
"""

import dataclasses

import numpy as np

from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Windows:
  """Holds windows that score equally many tokens, except at the end of a text.

  Attributes:
    starts: (W,) start of each window in the split.
    ends: (W,) end of the window's text in the split.
    length: L.
    n_scored: S, number of scored tokens at the end of a window; those beyond the text are not scored.
  """
  starts: np.ndarray
  ends: np.ndarray
  length: int
  n_scored: int

  @property
  def counts(self):
    """Returns the number of scored tokens of each window, (W,)."""
    return np.minimum(self.n_scored, self.ends - self.starts - (self.length - self.n_scored))

  def spread(self, n):
    """Returns n windows spread evenly over the split, or all windows if there are at most n."""
    chosen = (2 * np.arange(n) + 1) * len(self.starts) // (2 * n) if n < len(self.starts) else slice(None)
    return dataclasses.replace(self, starts=self.starts[chosen], ends=self.ends[chosen])

  def batches(self, data, batch_size, n_rows=None, host=0, n_hosts=1):
    """Yields this host's rows of all windows in batches.

    Args:
      data: the split.
      batch_size: windows per batch.
      n_rows: B, a multiple of H and at least batch_size; extra rows are padding. None for batch_size.
      host: number of this host, which reads only its own rows.
      n_hosts: H.

    Yields:
      (tokens (B / H, L) int32, weights (B / H, S) float32, counts): weights are 0 at padding; counts are the numbers of
      scored tokens of the batch's windows on all hosts.
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
    length: tokens per window; an example of at most this length is one window.
    stride: tokens between the starts of windows, 1 .. L; None for L.
    example_length: tokens of an example, or None where the split is one text.

  Raises:
    InputError: sizes out of range.
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
  """Returns the Windows of a split in groups: first those that score all their tokens, then any with context.

  Args:
    n_tokens: tokens of the split, at least 1.
    length: L.
    stride: tokens between the starts of windows.
    example_length: tokens of an example, or None where the split is one text.
  """
  step = example_length or n_tokens
  texts = [(start, min(start + step, n_tokens)) for start in range(0, n_tokens, step)]
  if stride == length:  # One group, so that batches are full and of one shape.
    return [_windows(texts, [np.arange(start, end, length) for start, end in texts], length, length)]
  groups = [_windows(texts, [np.array([start]) for start, _ in texts], length, length)]
  # A window at s scores tokens from s + L - S on, and is needed only if that is before the end.
  later = [np.arange(start + stride, end - (length - stride), stride) for start, end in texts]
  if any(map(len, later)):
    groups.append(_windows(texts, later, length, stride))
  return groups


def _windows(texts, starts, length, n_scored):
  """Returns Windows from the (start, end) of each text and the starts of its windows."""
  ends = np.repeat([end for _, end in texts], [len(s) for s in starts])
  return Windows(np.concatenate(starts), ends, length, n_scored)
