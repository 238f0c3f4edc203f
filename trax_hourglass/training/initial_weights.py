"""Initialises a new run's weights from another run, a file or a pretrained model."""

import os
import pathlib

import jax

from trax_hourglass.models import pretrained
from trax_hourglass.models import weight_files
from trax_hourglass.runtime import distributed
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime.progress import say
from trax_hourglass.training import checkpoints


def check(init_from, init_partial):
  """Raises InputError for invalid `init_from` or `init_partial` of `fit`."""
  if not isinstance(init_from, (str, os.PathLike, type(None))):
    raise InputError(f'init_from is {init_from!r}: give a run directory, a file that ends with .safetensors or '
                     '.pkl.gz, or the name of a pretrained model')
  if init_partial and init_from is None:
    raise InputError('init_partial is True and init_from is None: name what the weights are of')


def take(model, init_from, init_partial):
  """Sets a model's weights from `init_from`, and reports how many were taken.

  Args:
    model: initialised; with `init_partial`, weights without a match keep their values.
    init_from: name of a pretrained model, a run directory, whose newest undamaged checkpoint is read, or a file of
      weight_files.py.
    init_partial: whether to take only the weights that fit by name and shape, and leave the rest.

  Raises:
    InputError: the source is missing or damaged, or has no weight that fits, or any misfit without `init_partial`.
  """
  is_name = init_from in pretrained.names()
  stored = _read(pretrained.file_of(init_from) if is_name else pathlib.Path(init_from).expanduser())
  try:
    wrong = weight_files.take(stored, model, init_partial)
  except InputError as error:
    more = '' if init_partial else '; set fit.init_partial = True to take what fits'
    raise InputError(f'init_from: {error}{more if stored.names else ""}') from error
  n_weights = len(jax.tree.leaves(model.weights))
  n_missing = sum(not text.endswith("none of the model's") for text in wrong)
  if n_missing == n_weights:
    raise InputError(f'init_from: {stored.where} has no weight that fits the model: {weight_files.listed(wrong)}')
  if distributed.is_first():
    step = '' if stored.step is None else f' of step {stored.step:,}'
    rest = f'; not taken: {weight_files.listed(wrong)}' if wrong else ''
    say(f'{n_weights - n_missing} of {n_weights} weights are those{step} of {stored.where}{rest}')


def _read(path):
  if weight_files.is_file(path):
    return weight_files.read(path)
  if not path.is_dir():
    raise InputError(f'init_from is {str(path)!r}, which is {"another file" if path.exists() else "missing"}: give a '
                     'run directory, a file that ends with .safetensors or .pkl.gz, or the name of a '
                     f'pretrained model, of {pretrained.names()}')
  store = checkpoints.Store(path)
  step = store.newest_sound()
  if step is None:
    raise InputError(f'init_from: there is no checkpoint in {str(path)!r}: train there first')
  return weight_files.Stored(str(store.folder / str(step)), store.read(step)['weights'],
                             store.notes(step).get('names'), step)
