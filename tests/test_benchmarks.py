"""Tests that benchmarks run at a tiny size and print the ratios that have targets."""

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
def test_benchmark_prints_its_ratios(name, flags, ratios, monkeypatch, capsys):
  report = run(name, (*TINY, *flags), monkeypatch, capsys)
  assert all(report[ratio] > 0 for ratio in ratios)
  if '--peak_flops' in flags:
    np.testing.assert_allclose(report['models']['ours']['mfu'], report['models']['ours']['flops_per_second'] / 1e12)


def test_scaling_skips_steps_that_take_too_long_and_plots(tmp_path, monkeypatch, capsys):
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


def test_train_step_for_another_platform_only_compiles(monkeypatch, capsys):
  flags = '--length', '6', '--models', 'ours,trax', '--topology', 'cpu'
  report = run('train_step', (*TINY, *flags), monkeypatch, capsys)
  assert report['matmul_flops_per_second'] is None
  for result in report['models'].values():
    assert result['temporary_bytes'] > 0 and result['argument_bytes'] > 0 and 'step_seconds' not in result


def test_sampling_program_compiles_from_shapes_alone(monkeypatch, capsys):
  report = run('sampling_program', ('--config_file', runs.TINY, '--topology', 'cpu', '--prompt', '3', '--room', '12'),
               monkeypatch, capsys)
  assert set(report['programs']) == {'prompt', 'loop'} and report['fits']
  assert report['device_bytes'] == max(program['device_bytes'] for program in report['programs'].values()) > 0


def test_peak_lists_the_live_values(monkeypatch):
  monkeypatch.syspath_prepend(str(FOLDER))
  report = json.loads(processes.python(FOLDER / 'peak.py', '--config_file', runs.TINY, '--json', '--at_least',
                                       '0.001').stdout)
  sizes = [size for size, _ in report['alive']]
  assert dict((name, size) for size, name in report['alive'])['weights, state, slots'] > 0
  assert sum(sizes) >= report['temporary_bytes'] > 0


def test_cycles_are_split_by_operation(monkeypatch):
  """A loop of three turns holds a fused product of 20 cycles; a kernel declares its own."""
  monkeypatch.syspath_prepend(FOLDER)
  text = """
HloModule step

%fused (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  ROOT %c = f32[8,8]{1,0} convolution(%p, %p), dim_labels=bf_io->bf
}

%body (t: f32[8,8]) -> f32[8,8] {
  %t = f32[8,8]{1,0} parameter(0)
  ROOT %f = f32[8,8]{1,0} fusion(%t), calls=%fused, backend_config={"estimated_cycles":"20"}
}

%condition (u: f32[8,8]) -> pred[] {
  %u = f32[8,8]{1,0} parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  %w = f32[8,8]{1,0} while(%x), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %k = f32[8,8]{1,0} custom-call(%w), backend_config={"bundles":"7"}
  ROOT %y = f32[8,8]{1,0} copy(%k), backend_config={"estimated_cycles":"5"}
}
"""
  assert list(importlib.import_module('cycles').split(text).items()) == [
      ('matrix products, and what is computed along with them', 60), ("attention's kernels", 7),
      ('copies, padding, slices', 5)]


def test_peak_reads_the_live_values_of_a_tpu(monkeypatch, tmp_path):
  """Reads a table in libtpu's format: at time 3 a weight and the larger of two values are live."""
  monkeypatch.syspath_prepend(str(FOLDER))
  peak = importlib.import_module('peak')
  (tmp_path / '1-TLP-00-memory-space-assignment-bufferinfo.txt').write_text("""\
buffer_id,buffer_name,alt_mem_benefit,size,definition_time,use_times,use_names,is_scoped
1,"<7 weights_state_slots_0__0_.1>",0,100,0,"2;9","a;b",0
2,"<8 fusion.2{1}>",0,50,1,"2","c",0
3,"<9 dot.4>",0,70,3,"5","d",0
4,"scoped allocation for fusion.2",0,1000,3,"","",1
""")
  text = '  %dot.4 = f32[2] dot(%a, %b), metadata={op_name="jit(_update)/transpose(jvp(Stack_2))/dot_general"}\n'
  found = [(size, peak.name_of(path)) for size, path in peak.alive_on_tpu(tmp_path, text)]
  assert found == [(100, 'weights, state, slots'), (70, 'backward Stack_2/dot_general')]


def test_compiled_resumes_after_its_finished_rows(monkeypatch, tmp_path):
  monkeypatch.syspath_prepend(str(FOLDER))
  compiled = importlib.import_module('compiled')
  asked = []

  def planned(config, topology, more=(), n_devices=1):
    asked.append((config, topology, more, n_devices))
    fits = topology == 'h100' or n_devices == 8 or 'fit.accumulate = 8' in more
    return {'fits': fits, 'device_bytes': 2**30 if fits else 100 * 2**30, 'temporary_bytes': 2**30,
            'step_flops': 10**12, 'batch_size': 8, 'length': 4, 'compile_seconds': 1.0}

  monkeypatch.setattr(compiled, 'planned', planned)
  file = tmp_path / 'rows.json'
  compiled.compile_rows(file, 'Table 1, 8@1')
  compiled.compile_rows(file, 'cifar10, v5e')
  assert len(asked) == 9  # trax_cifar10 has the words too; what does not fit is tried in three other ways.
  compiled.compile_rows(file, 'cifar10, v5e')
  assert len(asked) == 9
  results = json.loads(file.read_text())
  assert compiled.fits_on(results['Table 1, 8@1, h100']) == 'yes'
  assert compiled.fits_on(results['cifar10, v5e']) == 'no; with `fit.accumulate = 8` or 8 devices'
  assert '| `8@1` | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 1 |' in compiled.table_1(results)
  assert '| cifar10 | v5e | 8 x 4 | 1.00 | 100.00 | no; with' in compiled.others(results)


def sweep_row(name, kind, bits_of_seeds, **changes):
  return {'name': name, 'kind': kind, 'weights_of': None, 'unit': 'byte', 'n_parameters': 7, 'step_flops': 10,
          'tokens': 40, 'bits_of_seeds': bits_of_seeds, **changes}


def sweep_result(*rows, **changes):
  return {'budget': {'flops': 1e3}, 'split': 'valid', 'protocol': None, 'max_tokens': 9, 'rows': rows, **changes}


def test_sweep_merges_seeds_and_compares_within_each(tmp_path, monkeypatch, capsys):
  of_both = sweep_row('6@1', 'flat', {'0': 2.5}), sweep_row('words', 'hierarchical', {'0': 2.25, '1': 2.125})
  for name, rows in ('a', of_both), ('b', [sweep_row('6@1', 'flat', {'1': 2.25})]):
    (tmp_path / name).write_text(json.dumps(sweep_result(*rows)))
  monkeypatch.setattr(sys, 'argv', ['sweep', str(tmp_path / 'a'), str(tmp_path / 'b'), '--against', '6@1', '--plot',
                                    str(tmp_path / 'plot.png')])
  runpy.run_path(str(FOLDER / 'sweep.py'), run_name='__main__')
  _, _, words, flat, *leads = capsys.readouterr().out.splitlines()
  # Differences .25 and .125: Student's t of one degree of freedom, 12.706, times their standard error, .0625.
  assert words == '| 1e+03 | `words` | 2 | 2.1875 ± 0.0884 | 7 | 40 | +0.1875 ± 0.7941 |'
  assert flat == '| 1e+03 | `6@1` | 2 | 2.3750 ± 0.1768 | 7 | 40 |  |'
  assert leads[1:] == ['| FLOPs | best hierarchy | seeds | lead |', '|---|---|---|---|',
                       '| 1e+03 | `words` | 2 | +0.1875 |']
  assert (tmp_path / 'plot.png').stat().st_size > 1000


@pytest.mark.parametrize('other, message', [
    (sweep_result(sweep_row('6@1', 'flat', {'1': 2.5}), max_tokens=8), "'valid', None, 9.* and .*'valid', None, 8"),
    (sweep_result(sweep_row('6@1', 'flat', {'1': 2.5}, unit='dim')), "'byte', .* and .*'dim', "),
    (sweep_result(sweep_row('6@1', 'flat', {'1': 2.5}, step_flops=11)), "'6@1' has 10 and 11 FLOPs per step"),
    (sweep_result(sweep_row('6@1', 'flat', {'0': 2.5})), "'6@1' has two results of seed 0"),
    (sweep_result(sweep_row('words', 'hierarchical', {'0': 3})), "--against is '8@1'; expected one of '6@1', 'words'"),
])
def test_sweep_refuses_what_does_not_compare(tmp_path, monkeypatch, other, message):
  for name, result in ('a', sweep_result(sweep_row('6@1', 'flat', {'0': 2.25}))), ('b', other):
    (tmp_path / name).write_text(json.dumps(result))
  monkeypatch.setattr(sys, 'argv', ['sweep', str(tmp_path / 'a'), str(tmp_path / 'b'), '--against', '8@1'])
  with pytest.raises(ValueError, match=message):
    runpy.run_path(str(FOLDER / 'sweep.py'), run_name='__main__')


def test_sweep_interpolates_leads_between_budgets(monkeypatch):
  monkeypatch.syspath_prepend(str(FOLDER))
  sweep = importlib.import_module('sweep')
  row = lambda budget, kind, bits: {'name': kind, 'kind': kind, 'unit': 'byte', 'budget': budget,
                                   'bits_per_byte': bits, 'bits_of_seeds': {'0': bits}}
  rows = [row(4e3, 'flat', 2.0), row(1e3, 'flat', 2.5), row(1e3, 'flat', 2.75), row(1e3, 'hierarchical', 2.25),
          row(2e3, 'hierarchical', 2.125), row(4e3, 'hierarchical', 2.0), row(8e3, 'hierarchical', 1.0)]
  *_, one, two, four, _, line = sweep.leads(rows).splitlines()
  assert [found.split('|')[-2].strip() for found in (one, two, four)] == ['+0.2500', '+0.1250', '+0.0000']
  assert line == 'The lead changes by -0.1250 ± 0.0000 bits with each doubling of FLOPs.'
  assert sweep.leads(rows[3:]) == ''


@pytest.mark.parametrize('files, against', [
    (['enwik8_sweep_5e13*'], '6@1, window 32'),
    (['enwik8_sweep_*window.json', 'enwik8_sweep_*window_seed*'], None),
    (['cifar10_sweep_5e13*'], '6@1, window'),
])
def test_results_page_shows_what_sweep_prints(monkeypatch, files, against):
  monkeypatch.syspath_prepend(str(FOLDER))
  sweep = importlib.import_module('sweep')
  docs = FOLDER.parent / 'docs'
  page = (docs / 'results.md').read_text(encoding='utf-8')
  rows = sweep.merged([json.loads(file.read_text()) for pattern in files for file in (docs / 'results').glob(pattern)])
  shown = sweep.table(rows, against) if against else sweep.leads(rows).split('\n\n')[0]
  assert shown.count('\n') > 3 and shown in page


def test_memory_compares_the_plan_with_a_step(monkeypatch, capsys):
  row, = run('memory', ('--config_file', runs.TINY, '--steps', '1', '--json'), monkeypatch, capsys)
  assert row['planned_bytes'] > 0 and row['grew_bytes'] >= 0 and row['seconds'] > 0


def test_first_loss_splits_its_seconds(monkeypatch):
  monkeypatch.syspath_prepend(str(FOLDER))
  first_loss = importlib.import_module('first_loss')
  lines = [(6.0, 'a note\n'), (7.5, 'Finished tracing pure_fn for jit in 0.500000000 sec'),
           (9.0, 'Finished XLA compilation of jit(unstack) in 0.250 sec'),
           (12.0, 'Finished tracing _update for jit in 2.0 sec'),
           (12.5, 'Finished jaxpr to MLIR module conversion jit(_update) in 0.5 sec'),
           (20.0, 'Finished XLA compilation of jit(_update) in 7.0 sec'), (20.25, 'step 1/500: 7.8 bits/byte')]
  assert list(first_loss.parts(lines).values()) == [7.0, 2.5, 7.0, 0.75, 3.0]


def test_bits_by_place_parts_divide_the_bytes(tmp_path, monkeypatch, capsys):
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


def test_bytes_are_classified_by_letter_and_group(monkeypatch):
  monkeypatch.syspath_prepend(str(FOLDER))
  places = importlib.import_module('bits_by_place').places(
      np.frombuffer(b'ab, Words 1 x' + b'.' * 27, np.uint8)[None], [3])
  found = {name: np.flatnonzero(mask).tolist() for name, mask in places.items()}
  assert found['letter 1 of a word'] == [0, 4, 12] and found['letter 5 of a word and later'] == [8]
  assert found['place 1 in groups of 3'] == [25, 28, 31, 34, 37] and len(found['not a letter']) == 40 - 8


def run(name, flags, monkeypatch, capsys):
  """Runs a benchmark within this process; returns its output."""
  monkeypatch.setattr(sys, 'argv', [f'{name}.py', *flags])
  monkeypatch.setattr(sys, 'path', [str(FOLDER), *sys.path])
  runpy.run_path(str(FOLDER / f'{name}.py'), run_name='__main__')
  return json.loads(capsys.readouterr().out)
