"""Tests that notebooks run from top to bottom in a tiny setting, are short, and hold no output."""

import json
import runpy

import nbclient
import nbformat
import numpy as np
import pytest
from trax import shapes

from tests.helpers import processes
from tests.helpers import runs
import trax_hourglass as th
from trax_hourglass.models import interop

FOLDER = processes.ROOT / 'notebooks'
TESTS = str(processes.ROOT / 'tests')
NAMES = sorted(file.name for file in FOLDER.glob('*.ipynb'))
BADGES = runpy.run_path(str(FOLDER / 'badges.py'))
CORPUS = f"ByteCorpus.path = '{__file__}'"
HOURGLASS = "Hourglass.hierarchy = '1@1 1@3 0@1'", *runs.HOURGLASS[1:]
# What a notebook is told in place of its own cell of parameters.
PARAMETERS = {
    'anatomy.ipynb':
        dict(name='enwik8-small', flat_name='enwik8-small-flat', text=b'a [[link]] and more', page='docs/model.md'),
    'authors_checkpoint.ipynb':
        dict(config_files=[f'{TESTS}/tiny.gin'], bindings=[CORPUS, *HOURGLASS], max_tokens=130, prompt=b'def'),
    'quickstart.ipynb':
        dict(config_files=[f'{TESTS}/tiny.gin'], bindings=[CORPUS], name='enwik8-small'),
    'compare.ipynb':
            dict(
                config_files=[f'{TESTS}/tiny_compare.gin'], bindings=[
                    CORPUS, 'compare.also_evaluate = None', 'compare.paper = None', 'compare.seeds = (0,)',
                    'compare.rows = {"a": "", "b": "Hourglass.d_ff = 11"}'
                ]),
}
N_IMAGES = {'anatomy.ipynb': 4, 'authors_checkpoint.ipynb': 0, 'compare.ipynb': 4, 'quickstart.ipynb': 3}


def cells(notebook, kind='code'):
  return [cell for cell in notebook.cells if cell.cell_type == kind]


def test_all_notebooks_exist():
  assert NAMES == sorted(PARAMETERS)


@pytest.mark.parametrize('name', NAMES)
def test_notebook_is_short_without_outputs(name):
  notebook = nbformat.read(FOLDER / name, as_version=4)
  nbformat.validate(notebook)
  assert sum(len(cell.source.splitlines()) for cell in cells(notebook)) <= 60
  assert all(not cell.outputs and cell.execution_count is None for cell in cells(notebook))
  assert cells(notebook, 'markdown')[0].source.startswith('# ')


@pytest.mark.parametrize('name', NAMES)
def test_notebook_begins_with_the_cells_of_badges_py(name):
  text = (FOLDER / name).read_text(encoding='utf-8')
  assert BADGES['with_badge'](name, json.loads(text)) == json.loads(text)
  assert f'{BADGES["REPOSITORY"]}/blob/main/notebooks/{name})' in text


def authors_checkpoint(path):
  """Writes a checkpoint of a tiny model as the authors' code does."""
  model = th.Hourglass(256, '1@1 1@3 0@1', 14, 10, 7, shortening=th.ShortenByAverage, upsampling=th.UpsampleByRepeat)
  model.init(shapes.ShapeDtype((1, 3), np.int32))
  interop.to_trax(model, path)


@pytest.mark.parametrize('name', NAMES)
def test_notebook_runs_from_top_to_bottom(name, tmp_path):
  notebook = nbformat.read(FOLDER / name, as_version=4)
  authors_checkpoint(str(tmp_path / 'model.pkl.gz'))
  for cell in cells(notebook):
    cell.source = cell.source.replace("'exported", f"'{tmp_path}/exported").replace('%pip install', '# %pip install')
    if 'parameters' in cell.metadata.get('tags', ()):
      settings = {**PARAMETERS[name], 'folder': str(tmp_path / 'run'), 'checkpoint': str(tmp_path / 'model.pkl.gz')}
      cell.source = '\n'.join(f'{key} = {value!r}' for key, value in settings.items())
  nbclient.NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(FOLDER)}}).execute()
  outputs = [output for cell in cells(notebook) for output in cell.outputs]
  assert sum('image/png' in output.get('data', {}) for output in outputs) == N_IMAGES[name]
  assert 'Warning' not in str(outputs)
  assert any('bits per byte' in str(output) for output in outputs) or name == 'anatomy.ipynb'
