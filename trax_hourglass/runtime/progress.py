"""Shows progress on stderr: a bar on a terminal, plain lines elsewhere. Work goes on when nobody reads stderr."""

import contextlib
import sys
import threading
import time

import tqdm

from trax_hourglass.runtime import startup

_LINE_SECONDS = 15.0


class Progress:
  """Shows progress, throughput and remaining time, excluding compilation and pauses."""

  def __init__(self, what, unit, per_item=1, is_shown=True):
    """Creates the display; nothing is shown yet.

    Args:
      what: noun for an item, such as 'step', shown before the count.
      unit: unit of the throughput, such as 'token'.
      per_item: units per item.
      is_shown: False on all hosts but the first.
    """
    self._what, self._unit, self._per_item = what, unit, per_item
    self._on_terminal = is_shown and sys.stderr.isatty()
    self._in_lines = is_shown and not self._on_terminal
    self._bar = tqdm.tqdm(desc=what, unit=f' {what}s' if per_item > 1 else unit, unit_scale=per_item == 1, leave=False,
                          dynamic_ncols=True, file=sys.stderr, disable=not self._on_terminal)
    self._began = self._counts_from = self._printed_at = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self):
    """Removes the bar."""
    self._bar.close()

  def begin(self, done, total):
    """Reports the start of the first item, whose program has to be compiled."""
    self._bar.initial = self._bar.n = done
    self._bar.total = total
    self._bar.set_postfix_str('compiling ...')
    self._began = time.monotonic()
    if self._in_lines:
      _print('compiling ...')

  def show(self, done, total, note, seconds_paused=0.0):
    """Shows the number of finished items.

    Args:
      done: finished items.
      total: items in total.
      note: text about the finished items, such as bits so far.
      seconds_paused: seconds since the beginning spent on other work, such as evaluations.
    """
    now = time.monotonic()
    worked = now - seconds_paused
    is_first = self._counts_from is None
    if is_first:
      self._counts_from = done, worked
      rest = '' if self._began is None else f', compiled in {now - self._began:.0f} s'
    else:
      rate = (done - self._counts_from[0]) / max(worked - self._counts_from[1], 1e-9)
      rest = f', {rate * self._per_item:,.0f} {self._unit}s/s, {(total - done) / max(rate, 1e-9):.0f} s left'
    self._bar.total = total
    self._bar.set_postfix_str(f'{note}{rest}', refresh=False)
    self._bar.update(done - self._bar.n)
    is_due = self._printed_at is None or now - self._printed_at > _LINE_SECONDS or done == total
    if self._in_lines and is_due:
      _print(f'{self._what} {done}/{total}: {note}{rest}')
      self._printed_at = now


@contextlib.contextmanager
def ticking(what):
  """Shows the elapsed time of a block of unknown duration, each second on a terminal."""
  with progress(what, unit='s') as bar:
    done = threading.Event()

    def tick():
      while not done.wait(1.0):
        bar.update(1)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
      yield
    finally:
      done.set()
      thread.join()


def progress(what, total=None, initial=0, unit='B'):
  """Returns a tqdm bar, of bytes or another unit, on a terminal; elsewhere prints one line at the start."""
  on_terminal = sys.stderr.isatty()
  if not on_terminal:
    say(what)
  return tqdm.tqdm(desc=what, total=total, initial=initial, unit=unit, unit_scale=True, leave=False, file=sys.stderr,
                   disable=not on_terminal)


def say(line):
  """Prints a line for the user to stderr; stdout belongs to results."""
  with startup.without_reader():
    tqdm.tqdm.write(line, file=sys.stderr)


def _print(line):
  with startup.without_reader():
    print(line, file=sys.stderr, flush=True)
