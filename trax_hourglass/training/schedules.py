"""The paper's learning rate schedule for text."""

import math


def WarmupCosine(peak, warmup_steps, n_steps):
  """Returns step -> learning rate: linear up to `peak`, then half a cosine down to 0 at the last step.

  Trax's `multifactor` has a cosine too, but one that repeats and so ends at its peak.

  Args:
    peak: highest learning rate.
    warmup_steps: steps until it is reached.
    n_steps: steps of the whole training.

  Raises:
    ValueError: no steps, more steps of warm-up than steps, or something that is no number.
  """
  for name, value in (('peak', peak), ('warmup_steps', warmup_steps), ('n_steps', n_steps)):
    if not isinstance(value, (int, float)):
      raise ValueError(f'{name} of the learning rate schedule is {value!r}: give a number')
  if not 0 <= warmup_steps <= n_steps or n_steps < 1:
    raise ValueError(f'warmup_steps is {warmup_steps} of n_steps {n_steps}: give at least one step, and no more warm-up '
                     'than steps')

  def learning_rate(step):
    if step < warmup_steps:
      return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, n_steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

  return learning_rate
