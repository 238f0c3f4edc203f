"""Tests module names of the former flat package: documented ones import, errors name the new place of the others."""

import importlib
import pathlib

import pytest

from trax_hourglass.runtime import errors
from trax_hourglass.runtime import gin_config
from trax_hourglass.runtime import moved_modules

PACKAGE = pathlib.Path(moved_modules.__file__).parent.parent


@pytest.mark.parametrize('name', moved_modules._FOUND)
def test_documented_old_names_import_the_new_module(name):
  old = importlib.import_module(f'trax_hourglass.{name}')
  new = importlib.import_module(f'trax_hourglass.{moved_modules._FOUND[name]}')
  assert old is new and new.__spec__.name == f'trax_hourglass.{moved_modules._FOUND[name]}'


def test_other_old_names_raise_errors_with_the_new_name():
  for name, now in moved_modules._SAID.items():
    assert (PACKAGE / now.replace('.', '/')).with_suffix('.py').exists(), now
    with pytest.raises(ModuleNotFoundError, match=f'trax_hourglass.{name} is now trax_hourglass.{now}: import that'):
      importlib.import_module(f'trax_hourglass.{name}')
  with pytest.raises(errors.InputError, match='trax_hourglass.blockwise is now trax_hourglass.ops.tiled_attention'):
    gin_config.parse_gin([], ['import trax_hourglass.blockwise'])
