"""Trained models that come with the package, by name: a file of weights, and a card that says how it was made."""

import pathlib

from trax_hourglass.models import weight_files
from trax_hourglass.runtime.errors import InputError

FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'pretrained'


def names():
  """Returns the names of the models, sorted."""
  return sorted(path.name.removesuffix(weight_files.SAFE) for path in FOLDER.glob(f'*{weight_files.SAFE}'))


def file_of(name):
  """Returns the path of a model's file of weights, which has its config in it.

  Raises:
    InputError: no model has this name.
  """
  if name not in names():
    raise InputError(f'pretrained model is {name!r}; expected one of {", ".join(map(repr, names()))}')
  return FOLDER / f'{name}{weight_files.SAFE}'


def card(name):
  """Returns the text that says on what data and how a model was trained, and how it scores.

  Raises:
    InputError: no model has this name.
  """
  return file_of(name).with_suffix('.md').read_text(encoding='utf-8')
