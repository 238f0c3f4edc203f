"""Settings of all tests: gin starts clean, hypothesis repeats itself, programs are compiled once."""

import atexit
import os
import shutil
import tempfile

from tests.helpers import processes
from tests.helpers import sampling

os.environ['XLA_FLAGS'] = processes.QUICK

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # The workers' and all commands' that tests start: they inherit it.
  _folder = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, _folder, ignore_errors=True)
  os.environ.update(JAX_COMPILATION_CACHE_DIR=_folder, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0.3',
                    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES='-1')

import gin
import hypothesis
import pytest

hypothesis.settings.register_profile('repeatable', derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile('repeatable')


def pytest_addoption(parser):
  parser.addoption('--thorough', action='store_true',
                   help='try all examples of what is sampled otherwise; an hour or more')


def pytest_configure(config):
  sampling.set_thorough(config.getoption('--thorough'))
  if not config.getoption('numprocesses', None):  # Else it is the workers that import test modules.
    import trax_hourglass  # Before anything that imports Trax.  pylint: disable=unused-import, g-import-not-at-top


# Minutes each. They begin, so that no worker is left with one when the others have nothing to do.
_LONGEST = ('test_devices_and_hosts_do_not_change_the_losses', 'test_short_crash_test',
            'test_two_hosts_train_one_run_that_one_host_goes_on_with')


def pytest_collection_modifyitems(items):
  """Puts the longest tests first, and leaves the others in their order."""
  items.sort(key=lambda item: item.name not in _LONGEST)


@pytest.fixture(autouse=True)
def clean_gin():
  """No binding outlives its test."""
  gin.clear_config()
  yield
  gin.clear_config()
