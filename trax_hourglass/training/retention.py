"""Decides which checkpoints of a run are kept."""

import dataclasses

from trax_hourglass.runtime import checks


@dataclasses.dataclass(frozen=True)
class Kept:
  """Holds which checkpoints are kept.

  Attributes:
    last: the newest so many.
    every: those of steps that this divides, for ever; None for none.
    best: whether that with the lowest `bits` in its notes is kept.
  """
  last: int = 2
  every: int | None = None
  best: bool = True

  def __post_init__(self):
    checks.check_sizes(keep_last=self.last, keep_every=1 if self.every is None else self.every)

  def of(self, bits):
    """Returns the set of steps to keep, of {step: bits or None}."""
    steps = sorted(bits)
    kept = set(steps[-self.last:]) | {step for step in steps if self.every and step % self.every == 0}
    scored = [step for step in steps if bits[step] is not None]
    return kept | {min(scored, key=bits.get)} if self.best and scored else kept
