"""What an evaluation shows while it goes on: a bar on a terminal, plain lines elsewhere, both on stderr."""

import sys
import time

import tqdm

from trax_hourglass.runtime import distributed

_LINE_SECONDS = 15.0


class ScoringProgress:
  """Shows bits so far, tokens per second and time left; a context manager, and a `Scorer.score`'s `on_batch`."""

  def __init__(self, what, unit):
    """Creates it; only the first host shows anything.

    Args:
      what: said before the numbers.
      unit: what a token is, such as 'byte'.
    """
    self._what, self._unit = what, unit
    self._on_terminal = distributed.is_first() and sys.stderr.isatty()
    self._prints_lines = distributed.is_first() and not self._on_terminal
    self._bar = tqdm.tqdm(desc=what, unit=unit, unit_scale=True, dynamic_ncols=True, leave=False, file=sys.stderr,
                          disable=not self._on_terminal)
    self._printed_at = time.monotonic()
    self._first = None  # (tokens done, when) after the first batch, which waits for a compilation.

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.close()

  def __call__(self, n_done, n_tokens, bits):
    self._bar.total = n_tokens
    self._bar.set_postfix_str(f'{bits:.4f} bits/{self._unit}', refresh=False)
    self._bar.update(n_done - self._bar.n)
    now = time.monotonic()
    if self._prints_lines and now - self._printed_at > _LINE_SECONDS:
      print(f'{self._what}: {n_done:,} of {n_tokens:,} {self._unit}s, {bits:.4f} bits/{self._unit}'
            f'{self._speed(n_done, n_tokens, now)}', file=sys.stderr, flush=True)
      self._printed_at = now
    self._first = self._first or (n_done, now)

  def _speed(self, n_done, n_tokens, now):
    if self._first is None:
      return ''
    rate = (n_done - self._first[0]) / (now - self._first[1])
    return f', {rate:,.0f} {self._unit}s/s, {(n_tokens - n_done) / rate:.0f} s left'


def progress(what, total=None, initial=0):
  """Returns a tqdm bar of bytes on a terminal; elsewhere says in one line what begins."""
  on_terminal = sys.stderr.isatty()
  if not on_terminal:
    say(what)
  return tqdm.tqdm(desc=what, total=total, initial=initial, unit='B', unit_scale=True, leave=False, file=sys.stderr,
                   disable=not on_terminal)


def say(line):
  """Prints a line for the user to stderr; stdout belongs to results."""
  tqdm.tqdm.write(line, file=sys.stderr)
