"""Selects which checkpoints of a run are kept."""

import dataclasses
import math

from trax_hourglass.runtime import checks


@dataclasses.dataclass(frozen=True)
class Kept:
  """Holds the retention policy.

  Attributes:
    last: number of newest checkpoints to keep.
    every: checkpoints at multiples of this step are kept forever; None for none.
    best: whether to keep the checkpoint with the lowest `bits` in its notes.
  """
  last: int = 2
  every: int | None = None
  best: bool = True

  def __post_init__(self):
    checks.check_sizes(keep_last=self.last, keep_every=1 if self.every is None else self.every)

  def of(self, bits):
    """Returns the set of steps to keep, from {step: bits or None}."""
    steps, best_step = sorted(bits), best(bits)
    kept = set(steps[-self.last:]) | {step for step in steps if self.every and step % self.every == 0}
    return kept | {best_step} if self.best and best_step is not None else kept


def best(bits):
  """Returns the step with the lowest bits, from {step: bits or None}, or None if no step has bits; NaN is none."""
  scored = [step for step in sorted(bits) if bits[step] is not None and not math.isnan(bits[step])]
  return min(scored, key=bits.get, default=None)
