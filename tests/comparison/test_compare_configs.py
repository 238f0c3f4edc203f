"""Tests the configs in gin/compare: each opens with its command, and the models of all rows build as configured."""

import contextlib
import math
import re
from unittest import mock

import gin
import jax
import numpy as np
import pytest
from trax import shapes

from tests.helpers import processes
from tests.helpers import sampling
from trax_hourglass.comparison import compare
from trax_hourglass.comparison import rows
from trax_hourglass import registry
from trax_hourglass.models import hierarchy
from trax_hourglass.runtime import gin_config
from trax_hourglass.training import run_directory

FOLDER = processes.ROOT / 'gin' / 'compare'
SHARED = ('enwik8.gin', 'cifar10.gin')
FILES = sorted(file.name for file in FOLDER.glob('*.gin') if file.name not in SHARED)
TABLES = [file for file in FILES if '_table' in file]
CORPUS = ['fit.corpus = @ByteCorpus()', f"ByteCorpus.path = '{__file__}'"]


def rows_of(folder, *files):
  """Returns the comparison configured by some files, with its rows checked but not run."""
  gin.clear_config()
  gin_config.parse_gin([f'compare/{file}' for file in files], CORPUS)
  with contextlib.ExitStack() as patched:
    patched.enter_context(mock.patch.object(compare.Comparison, 'run', lambda self, seeds: self))
    if not sampling.examples(0, 1):  # The check initialises Trax's models; see below.
      patched.enter_context(mock.patch.object(rows, '_check_length'))
    return registry.compare(str(folder / 'x'))


def shape(row, found, initialises):
  """Asserts that a row's model has the configured stacks and, if `initialises`, that its weights have shapes."""
  found._configuration.configure(row, 7, 0)
  model = run_directory.setting('model')(mode='train')
  if initialises:
    signature = shapes.ShapeDtype((1, run_directory.setting('length')), np.int32)
    weights = jax.eval_shape(lambda key: model.init(signature, rng=key)[0], jax.ShapeDtypeStruct((2,), np.uint32))
    assert sum(math.prod(w.shape) for w in jax.tree.leaves(weights)) > 0
  if hasattr(model, 'length_multiple'):  # One of our models: its stacks must match the hierarchy of the row.
    levels = hierarchy.parse(hierarchy.alternatives(gin_config.bound('Hourglass.hierarchy'))[0])
    counts = [(level.n_before, level.total_factor) for level in levels]
    counts += [(level.n_after, level.total_factor) for level in levels[-2::-1]]
    found = re.findall(r'(?m)^ *Stack_(\d+)@(\d+)', str(model))
    assert [(int(n), int(factor)) for n, factor in found] == counts


@pytest.mark.parametrize('file', FILES)
def test_config_starts_with_a_command_naming_existing_files(file):
  text = (FOLDER / file).read_text()
  opening = text[:text.index('\n\n')]
  assert f'-m trax_hourglass.compare --config_file gin/compare/{file}' in opening
  assert all(line.startswith('#') for line in opening.splitlines())
  assert all((processes.ROOT / named).exists() for named in re.findall(r'--config_file ([\w./]+)', opening))


@pytest.mark.parametrize('file', FILES)
def test_models_of_all_rows_build_as_configured(file, tmp_path):
  found = rows_of(tmp_path, file)
  # A model takes seconds to initialise, one of Trax's half a minute: ../models/test_trax_language_model.py tests tiny
  # ones.
  ours = [row.name for row in found.rows if row.kind == 'hierarchical']
  initialised = sampling.some(ours[-1:], [row.name for row in found.rows])
  for row in found.rows:
    shape(row, found, row.name in initialised)
  # All rows differ in their settings, except rows that evaluate the weights of another row.
  settings = [row.settings for row in found.rows if row.weights_of is None]
  assert len(set(settings)) == len(settings) > 1


@pytest.mark.parametrize('file', TABLES)
def test_cpu_scale_has_the_same_rows(file, tmp_path):
  gin_config.parse_gin([f'compare/{file}'], [])
  names = set(gin.query_parameter('compare.rows'))
  small = rows_of(tmp_path, file, f'scale/cpu_{file.split("_")[0]}.gin')
  assert {row.name for row in small.rows if row.weights_of is None} == names
  assert gin.query_parameter('compare.seeds') == (0, 1, 2)
  shape(small.rows[0], small, initialises=False)


def test_table_1_rows_and_bits_match_the_paper_config():
  """The comments of gin/paper/enwik8_ablation.gin list the paper's bits for every row."""
  gin.clear_config()
  gin_config.parse_gin(['compare/enwik8_table1.gin'], [])
  paper = gin.query_parameter('compare.paper')
  text = (FOLDER.parent / 'paper' / 'enwik8_ablation.gin').read_text()
  assert len(paper) == 15 and set(paper) == set(gin.query_parameter('compare.rows'))
  for name, bits in paper.items():
    assert f'{name} ' in text and f'{bits:.3f}' in text[text.index(f'{name} '):][:30]
