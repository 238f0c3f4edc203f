"""Benchmarks run, at a tiny size, and print the ratios that targets are set for."""

import importlib
import json
import runpy
import sys

import numpy as np
import pytest

from tests.helpers import processes
from trax_hourglass.ops import tiled_attention
from tests.helpers import runs

FOLDER = processes.ROOT / 'benchmarks'
TINY = ('--hierarchy', '0@1 1@3 0@1', '--d_model', '8', '--d_ff', '8', '--n_heads', '2', '--json')


@pytest.mark.parametrize('name, flags, ratios', [
    ('train_step', ('--length', '6', '--steps', '1', '--models', 'ours,trax', '--peak_flops', '1e12'),
     ['step_time_ratio_trax_over_ours', 'temporary_bytes_ratio_trax_over_ours',
      'compile_seconds_ratio_trax_over_ours']),
    ('decode', ('--lengths', '5,9', '--tokens', '1', '--turns', '2', '--models', 'ours,flat,trax', '--flat_equal_time',
                '1@1'),
     ['tokens_per_second_ratio_ours_over_trax', 'tokens_per_second_ratio_ours_over_flat',
      'time_ratio_longest_over_shortest_length']),
])
def test_prints_its_ratios(name, flags, ratios, monkeypatch, capsys):
  report = run(name, (*TINY, *flags), monkeypatch, capsys)
  assert all(report[ratio] > 0 for ratio in ratios)
  if '--peak_flops' in flags:
    np.testing.assert_allclose(report['models']['ours']['mfu'], report['models']['ours']['flops_per_second'] / 1e12)


def test_scaling_leaves_out_what_would_take_too_long_and_draws(tmp_path, monkeypatch, capsys):
  flags = '--lengths', '6,9', '--steps', '1', '--models', 'ours,flat', '--max_seconds', '1e-9', '--plot', str(
      tmp_path / 'plot.png')
  rows = run('scaling', (*TINY, *flags), monkeypatch, capsys)['rows']
  assert [(row['model'], row['length'], 'left_out' in row) for row in rows] == [
      ('ours', 6, False), ('flat', 6, False), ('ours', 9, True), ('flat', 9, True)]
  assert all(row['step_seconds'] > 0 and row['temporary_bytes'] > 0 for row in rows[:2])
  assert (tmp_path / 'plot.png').stat().st_size > 1000


def test_attention_measures_every_form_and_use(monkeypatch, capsys):
  for name in '_BLOCK_QUERIES', '_SPAN_KEYS':  # The benchmark tries others; they come back at the end.
    monkeypatch.setattr(tiled_attention, name, getattr(tiled_attention, name))
  rows = run('attention', ('--length', '6', '--n_heads', '1', '--head_width', '2', '--runs', '1', '--json'),
             monkeypatch, capsys)['rows']
  tiled_attention.attend.clear_cache()
  variants = {
      use: [row['variant'] for row in rows if row['use'] == use]
      for use in ('within a level', 'shortening', 'upsampling')
  }
  assert variants['within a level'] == [*variants['shortening'], 'one matrix'
                                       ] and variants['upsampling'] == variants['shortening']
  assert len(variants['shortening']) == 6 and all(row['seconds'] > 0 for row in rows)


def test_peers_time_our_models_without_pytorch(monkeypatch, capsys):
  flags = '--length', '6', '--d_model', '8', '--n_heads', '2', '--turns', '1', '--models', 'flat_relative,flat_rotary'
  models = run('peers', (*flags, '--hierarchy', '0@1 1@3 0@1', '--json'), monkeypatch, capsys)['models']
  assert all(model['step_seconds'] > 0 and np.isfinite(model['last_loss']) for model in models.values())
  assert models['flat_relative']['parameters'] > models['flat_rotary']['parameters']  # Those of positions.


def test_memory_compares_a_plan_with_a_step(monkeypatch, capsys):
  row, = run('memory', ('--config_file', runs.TINY, '--steps', '1', '--json'), monkeypatch, capsys)
  assert row['planned_bytes'] > 0 and row['grew_bytes'] >= 0 and row['seconds'] > 0


def test_first_loss_takes_its_seconds_apart(monkeypatch):
  monkeypatch.syspath_prepend(str(FOLDER))
  first_loss = importlib.import_module('first_loss')
  lines = [(6.0, 'a note\n'), (7.5, 'Finished tracing pure_fn for jit in 0.500000000 sec'),
           (9.0, 'Finished XLA compilation of jit(unstack) in 0.250 sec'),
           (12.0, 'Finished tracing _update for jit in 2.0 sec'),
           (12.5, 'Finished jaxpr to MLIR module conversion jit(_update) in 0.5 sec'),
           (20.0, 'Finished XLA compilation of jit(_update) in 7.0 sec'), (20.25, 'step 1/500: 7.8 bits/byte')]
  assert list(first_loss.parts(lines).values()) == [7.0, 2.5, 7.0, 0.75, 3.0]


def test_bits_by_place(tmp_path, monkeypatch, capsys):
  for name in 'one', 'other':
    runs.run(tmp_path / name, 'n_steps = 2', f'fit.seed = {len(name)}')
  folders = str(tmp_path / 'one'), str(tmp_path / 'other')
  all_bytes, *rows = run('bits_by_place', (*folders, '--windows', '9', '--factors', '3', '--json'), monkeypatch,
                         capsys)['rows']
  assert all_bytes['share'] == 1 and all_bytes['other, more'] != 0
  # Whole windows, and bytes that are a letter, by its number, or none: each divides the bytes.
  for parts in ([row for row in rows if 'of a window' in row['bytes']], [
      row for row in rows if 'letter' in row['bytes']
  ]):
    np.testing.assert_allclose(sum(row['share'] for row in parts), 1)
    for name in 'one', 'other', 'other, more':
      np.testing.assert_allclose(sum(row['share'] * row[name] for row in parts), all_bytes[name], rtol=1e-5, atol=1e-6)


def test_letters_and_groups_of_a_text(monkeypatch):
  monkeypatch.syspath_prepend(str(FOLDER))
  places = importlib.import_module('bits_by_place').places(
      np.frombuffer(b'ab, Words 1 x' + b'.' * 27, np.uint8)[None], [3])
  found = {name: np.flatnonzero(mask).tolist() for name, mask in places.items()}
  assert found['letter 1 of a word'] == [0, 4, 12] and found['letter 5 of a word and later'] == [8]
  assert found['place 1 in groups of 3'] == [25, 28, 31, 34, 37] and len(found['not a letter']) == 40 - 8


def run(name, flags, monkeypatch, capsys):
  """Runs a benchmark within this process; returns what it printed."""
  monkeypatch.setattr(sys, 'argv', [f'{name}.py', *flags])
  monkeypatch.setattr(sys, 'path', [str(FOLDER), *sys.path])
  runpy.run_path(str(FOLDER / f'{name}.py'), run_name='__main__')
  return json.loads(capsys.readouterr().out)
