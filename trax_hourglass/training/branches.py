"""Starts a run as a copy of another run at one of its steps, so that one long run gives results at many budgets.

The whole checkpoint is copied, optimizer slots included: up to that step both runs are identical. If the schedule is
constant there (WarmupStableDecay), the branch equals a run trained from step 0 with the branch's `n_steps` (arXiv
2405.18392).
"""

import os
import pathlib

from trax_hourglass.runtime import checks
from trax_hourglass.runtime import distributed
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime.progress import say
from trax_hourglass.training import checkpoints


def check(branch_from, init_from, n_steps):
  """Raises InputError unless `branch_from` is None, or (run directory, step before `n_steps`) without `init_from`."""
  if branch_from is None:
    return
  is_pair = isinstance(branch_from, (tuple, list)) and len(branch_from) == 2
  if not is_pair or not isinstance(branch_from[0], (str, os.PathLike)) or not checks.is_whole(branch_from[1]):
    raise InputError(f"branch_from is {branch_from!r}: give a run directory and a step, as in ('runs/long', 5000)")
  if branch_from[1] >= n_steps:
    raise InputError(f'branch_from is {branch_from!r} and n_steps {n_steps}: give more steps, or an earlier one')
  if init_from is not None:
    raise InputError(f'branch_from is {branch_from!r} and init_from {init_from!r}: give one of them')


def source(branch_from):
  """Returns (checkpoints.Store, step) of the checkpoint that a new run starts from, after verifying the checkpoint.

  Raises:
    InputError: the checkpoint of that step is missing or damaged.
  """
  path, step = branch_from
  store = checkpoints.Store(pathlib.Path(path).expanduser())
  try:
    store.check(step)
  except InputError as error:
    raise InputError(f'branch_from: {error}') from error
  return store, step


def copy(other, step, store):
  """Copies a checkpoint of another run's store into the new run's store."""
  if distributed.is_first():
    store.adopt(step, other)
    say(f'the run branches off {other.folder.parent} at step {step:,}')
