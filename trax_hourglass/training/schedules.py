"""Provides learning-rate schedules that Trax lacks; `trax.supervised.lr_schedules` has rsqrt with warm-up.

Schedules are plain Python, since arithmetic on the device would wait for the current training step.
"""

import math

from trax_hourglass.runtime.errors import InputError


def WarmupCosine(peak, warmup_steps, n_steps):
  """Returns the schedule step -> learning rate: linear up to `peak`, then half a cosine down to 0 at the last step.

  Trax's `multifactor` has a cosine too, but a periodic one, which ends at its peak.

  Args:
    peak: highest learning rate.
    warmup_steps: steps until the peak.
    n_steps: total number of training steps.

  Raises:
    InputError: no steps, more warm-up steps than steps, or an argument that is not a number.
  """
  _check_numbers(peak=peak, warmup_steps=warmup_steps, n_steps=n_steps)
  if not 0 <= warmup_steps <= n_steps or n_steps < 1:
    raise InputError(f'warmup_steps is {warmup_steps} of n_steps {n_steps}: give at least one step, and no more '
                     'warm-up than steps')

  def learning_rate(step):
    if step < warmup_steps:
      return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, n_steps - warmup_steps)
    return peak * _half_cosine(progress)

  return learning_rate


def WarmupStableDecay(peak, warmup_steps, decay_steps, n_steps):
  """Returns the schedule step -> learning rate: linear to `peak`, constant, then linear to 0 at the last step.

  Before the decay the schedule does not depend on `n_steps`. So runs of several lengths can branch off one run, each
  with its own decay (arXiv 2405.18392); see docs/training.md.

  Args:
    peak: highest learning rate.
    warmup_steps: steps until the peak.
    decay_steps: number of last steps, in which the rate falls; a number below 1 is a share of all steps.
    n_steps: total number of training steps.

  Raises:
    InputError: no steps, more steps of warm-up and decay than steps, or an argument that is not a number.
  """
  _check_numbers(peak=peak, warmup_steps=warmup_steps, decay_steps=decay_steps, n_steps=n_steps)
  if 0 < decay_steps < 1:
    decay_steps = round(decay_steps * n_steps)
  if min(warmup_steps, decay_steps) < 0 or n_steps < 1 or warmup_steps + decay_steps > n_steps:
    raise InputError(f'warmup_steps is {warmup_steps} and decay_steps {decay_steps} of n_steps {n_steps}: give at '
                     'least one step, and together no more than there are')

  def learning_rate(step):
    if step < warmup_steps:
      return peak * step / warmup_steps
    return peak * max(0.0, min(1.0, (n_steps - step) / max(1, decay_steps)))

  return learning_rate


def CosineEnd(before, first_step, n_steps):
  """Returns a schedule equal to `before` up to a step, then half a cosine from its value there to 0 at the last step.

  The paper uses this for ImageNet32, after Trax's `warmup_and_rsqrt_decay`.

  Args:
    before: schedule, a function step -> learning rate.
    first_step: step at which the cosine begins.
    n_steps: total number of training steps.

  Raises:
    InputError: no step left for the cosine, or an argument that is not a number.
  """
  if not callable(before):
    raise InputError(f'before of the learning rate schedule is {before!r}: give a schedule, such as @WarmupCosine()')
  _check_numbers(first_step=first_step, n_steps=n_steps)
  if not 0 <= first_step < n_steps:
    raise InputError(f'first_step of the cosine is {first_step} of n_steps {n_steps}: give a step before the last')

  def learning_rate(step):
    if step <= first_step:
      return before(step)
    return before(first_step) * _half_cosine((step - first_step) / (n_steps - first_step))

  return learning_rate


def _check_numbers(**values):
  for name, value in values.items():
    if not isinstance(value, (int, float)):
      raise InputError(f'{name} of the learning rate schedule is {value!r}: give a number')


def _half_cosine(progress):
  """Falls from 1 at progress 0 to 0 at progress 1, and stays 0."""
  return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
