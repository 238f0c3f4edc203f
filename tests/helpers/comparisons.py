"""Runs tiny comparisons."""

import pathlib

import gin

from tests.helpers import processes
from trax_hourglass.comparison import step_cost
from trax_hourglass import registry
from trax_hourglass.runtime import gin_config

TINY = str(pathlib.Path(__file__).parent.parent / 'tiny_compare.gin')
# The default corpus, Python's standard library, would take most of the time.
CORPUS = f"ByteCorpus.path = '{processes.ROOT}/README.md'"
MEASURED = step_cost.Measurement(n_parameters=10, step_flops=2e9, flops_from='products', step_bytes=1000,
                                 step_seconds=0.25)


def run(folder, *bindings):
  """Runs the tiny comparison and returns its results."""
  gin.clear_config()
  gin_config.parse_gin([TINY], [CORPUS, *bindings])
  return registry.compare(str(folder))


def by_name(results):
  return {row['name']: row for row in results['rows']}
