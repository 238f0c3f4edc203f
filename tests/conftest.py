"""Configures all tests: gin starts clean, hypothesis is deterministic, programs are compiled once."""

import atexit
import fcntl
import gc
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


# A worker takes whole modules, whose tests share what takes long to make. The longest begin, so that no worker is left
# with one when the others have nothing to do. The rest takes three minutes: `-m "not slow"`.
_SLOW = ('runtime.test_distributed', 'comparison.test_compare', 'training.test_faults', 'test_notebooks',
         'models.test_interop', 'test_paper_configs', 'models.test_hourglass', 'comparison.test_compare_configs',
         'training.test_fit', 'cli.test_doors', 'inference.test_predict', 'ops.test_attention', 'test_benchmarks',
         'cli.test_generate', 'comparison.test_budget', 'cli.test_evaluate', 'models.test_trax_language_model',
         'layers.test_factor_dropout', 'training.test_step', 'training.test_run_directory', 'inference.test_decoding',
         'models.test_toy_task', 'ops.test_attention_forms', 'runtime.test_deferred_imports',
         'layers.test_trax_attention', 'training.test_old_runs')


def pytest_collection_modifyitems(items):
  """Marks the slow modules and puts them first, the longest at the beginning; leaves the others in their order."""
  place = {f'tests.{module}': number for number, module in enumerate(_SLOW)}
  for item in items:
    if item.module.__name__ in place:
      item.add_marker('slow')
  items.sort(key=lambda item: place.get(item.module.__name__, len(place)))


@pytest.fixture(autouse=True, scope='module')
def small_heap():
  """Freezes objects of earlier modules, such as millions of jaxprs, out of the garbage collector's way.

  Comparisons and checkpoints collect garbage themselves, which takes most of a second otherwise, each time.
  """
  gc.collect()
  gc.freeze()


@pytest.fixture(autouse=True)
def clean_gin():
  """Clears gin's bindings around each test."""
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.fixture(scope='session')
def tiny_run(tmp_path_factory):
  """Returns a run of 30 steps that all workers share and none may change: (directory, text file, Result of `fit`)."""
  from tests.helpers import runs  # Imports Trax.  pylint: disable=g-import-not-at-top
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent  # That of all workers.
  with open(folder / 'tiny_run.lock', 'w', encoding='utf-8') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    return runs.shared(folder / 'tiny_run')
