"""Which checkpoints of a run are kept."""

import dataclasses

from trax_hourglass.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Kept:
  """Which checkpoints are kept.

  Attributes:
    last: the newest so many.
    every: those of steps that this divides, for ever; None for none.
    best: whether that with the lowest `bits` in its notes is kept.
  """
  last: int = 2
  every: int | None = None
  best: bool = True

  def __post_init__(self):
    if not isinstance(self.last, int) or self.last < 1:
      raise InputError(f'keep_last is {self.last!r}: give a number of checkpoints, 1 at least')
    if self.every is not None and (not isinstance(self.every, int) or self.every < 1):
      raise InputError(f'keep_every is {self.every!r}: give a number of steps above 0, or None')

  def of(self, bits):
    """Returns the set of steps to keep, of {step: bits or None}."""
    steps = sorted(bits)
    kept = set(steps[-self.last:]) | {step for step in steps if self.every and step % self.every == 0}
    scored = [step for step in steps if bits[step] is not None]
    return kept | {min(scored, key=bits.get)} if self.best and scored else kept
