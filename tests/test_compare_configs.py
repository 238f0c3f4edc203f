"""gin/compare: each file says what it is, its rows and those of its small version build, and have their shapes."""

import math
import pathlib
from unittest import mock

import gin
import jax
import numpy as np
import pytest
from trax import shapes

from trax_hourglass import command_line
from trax_hourglass import comparison
from trax_hourglass import configurables
from trax_hourglass import run_directory

FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'gin' / 'compare'
SHARED = ('enwik8.gin', 'cifar10.gin')
FILES = sorted(file.name for file in FOLDER.glob('*.gin') if file.name not in SHARED)
TABLES = [file for file in FILES if '_table' in file]
CORPUS = ['fit.corpus = @ByteCorpus()', f"ByteCorpus.path = '{__file__}'"]
# Parameters that the paper's Table 1 prints, in millions, and those of Table 7 and 8 by hand from one of theirs.
N_PARAMETERS = {
    'enwik8_table5.gin': {'2@1 1@3 2@1': 24, '2@1 4@3 2@1': 34, '2@1 8@3 2@1': 48, '2@1 16@3 2@1': 75},
    'enwik8_table6.gin': {'2@1 4@3 2@1': 34, '0@1 4@3 0@1': 21},
}


def rows_of(folder, *files):
  """Returns the comparison of some files, its rows checked; nothing is run."""
  gin.clear_config()
  command_line.parse_gin([f'compare/{file}' for file in files], CORPUS)
  with mock.patch.object(comparison.Comparison, 'run', lambda self, seeds: self):
    return configurables.compare(str(folder / 'x'))


_known = {}  # Models that print alike have the same shapes.


def n_parameters(row, found):
  """Returns the parameters of a row's model, of which nothing is computed."""
  found._configure(row, 7, 0)
  model = run_directory.setting('model')(mode='train')
  if str(model) not in _known:
    signature = shapes.ShapeDtype((1, run_directory.setting('length')), np.int32)
    weights = jax.eval_shape(lambda key: model.init(signature, rng=key)[0], jax.ShapeDtypeStruct((2,), np.uint32))
    _known[str(model)] = sum(math.prod(w.shape) for w in jax.tree.leaves(weights))
  return _known[str(model)]


@pytest.mark.parametrize('file', FILES)
def test_file_opens_with_command_and_result(file):
  text = (FOLDER / file).read_text()
  opening = text[:text.index('\n\n')]
  assert f'-m trax_hourglass.compare --config_file gin/compare/{file}' in opening
  assert all(line.startswith('#') for line in opening.splitlines())


@pytest.mark.parametrize('file', FILES)
def test_rows_build_and_have_their_shapes(file, tmp_path):
  found = rows_of(tmp_path, file)
  counts = {row.name: n_parameters(row, found) for row in found.rows}
  for name, millions in N_PARAMETERS.get(file, {}).items():
    assert round(counts[name] / 1e6) == millions
  # Each row differs from the others, but for weights that are evaluated twice.
  settings = [row.settings for row in found.rows if row.weights_of is None]
  assert len(set(settings)) == len(settings) > 1


@pytest.mark.parametrize('file', TABLES)
def test_small_version_has_the_same_rows(file, tmp_path):
  paper = [row.name for row in rows_of(tmp_path, file).rows]
  small = rows_of(tmp_path / 'small', file, f'scale/cpu_{file.split("_")[0]}.gin')
  assert [row.name for row in small.rows] == paper
  assert all(n_parameters(row, small) < 2.5e6 for row in small.rows)
  assert gin.query_parameter('compare.seeds') == (0, 1, 2)


def test_rows_of_table_1_are_those_of_its_config():
  """gin/paper/enwik8_ablation.gin prints the paper's bits for every row."""
  gin.clear_config()
  command_line.parse_gin(['compare/enwik8_table1.gin'], [])
  paper = gin.query_parameter('compare.paper')
  text = (FOLDER.parent / 'paper' / 'enwik8_ablation.gin').read_text()
  assert len(paper) == 15 and set(paper) == set(gin.query_parameter('compare.rows'))
  for name, bits in paper.items():
    assert f'{name} ' in text and f'{bits:.3f}' in text[text.index(f'{name} '):][:30]
