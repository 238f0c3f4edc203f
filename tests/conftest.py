"""Settings of all tests: gin starts clean, hypothesis repeats itself, programs are compiled once."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

# Tiny models take longer to compile than to run.
QUICK = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # Later ones do not know the flag, and end the process.
  QUICK += ' --xla_cpu_use_fusion_emitters=false'  # Halves the time: one LLVM module for many kernels, not for each.
os.environ['XLA_FLAGS'] = QUICK

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # The workers' and all commands' that tests start: they inherit it.
  _folder = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, _folder, ignore_errors=True)
  os.environ.update(JAX_COMPILATION_CACHE_DIR=_folder, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0.3',
                    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES='-1')

import trax_hourglass  # Before anything that imports Trax.  pylint: disable=unused-import, wrong-import-position

import gin
import hypothesis
import pytest

hypothesis.settings.register_profile('repeatable', derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile('repeatable')


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
