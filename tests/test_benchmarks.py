"""Benchmarks run, at a tiny size, and print the ratios that targets are set for."""

import json
import pathlib
import runpy
import sys

import pytest

FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'benchmarks'
TINY = ('--hierarchy', '1@1 1@3 1@1', '--d_model', '8', '--d_ff', '8', '--n_heads', '2', '--json')


@pytest.mark.parametrize('name, flags, ratios', [
    ('train_step', ('--length', '6', '--steps', '1', '--models', 'ours,trax'),
     ['step_time_ratio_trax_over_ours', 'temporary_bytes_ratio_trax_over_ours', 'compile_seconds_ratio_trax_over_ours']),
    ('decode', ('--lengths', '5,9', '--tokens', '1', '--turns', '2', '--models', 'ours,flat,trax', '--flat_equal_time', '1@1'),
     ['tokens_per_second_ratio_ours_over_trax', 'tokens_per_second_ratio_ours_over_flat',
      'time_ratio_longest_over_shortest_length']),
])
def test_prints_its_ratios(name, flags, ratios, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', [f'{name}.py', *TINY, *flags])
  monkeypatch.setattr(sys, 'path', [str(FOLDER), *sys.path])
  runpy.run_path(str(FOLDER / f'{name}.py'), run_name='__main__')
  report = json.loads(capsys.readouterr().out)
  assert all(report[ratio] > 0 for ratio in ratios)
