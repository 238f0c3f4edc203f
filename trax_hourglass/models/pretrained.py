"""Finds the pretrained models of the package by name: a weight file, and a card on how the model was trained."""

import pathlib

from trax_hourglass.models import weight_files
from trax_hourglass.runtime.errors import InputError

FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'pretrained'


def names():
  """Returns the names of the models, sorted."""
  return sorted(path.name.removesuffix(weight_files.SAFE) for path in FOLDER.glob(f'*{weight_files.SAFE}'))


def file_of(name):
  """Returns the path of a model's weight file, which contains the model's config.

  Raises:
    InputError: no model has this name.
  """
  if name not in names():
    raise InputError(f'pretrained model is {name!r}; expected one of {", ".join(map(repr, names()))}')
  return FOLDER / f'{name}{weight_files.SAFE}'
