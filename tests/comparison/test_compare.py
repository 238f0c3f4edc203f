"""Tests comparisons: an equal budget for all rows, finished results kept, failures reported, rows added by the user."""

import csv
import json
import os
import pathlib
import shutil
import textwrap

import gin
import numpy as np
from tests.helpers import processes
from tests.helpers import pairs
import pytest
import tensorflow as tf
from trax import layers as tl

import trax_hourglass as th
from trax_hourglass import compare
from trax_hourglass.comparison import compare as compare_lib
from trax_hourglass.comparison import budget as budget_lib
from trax_hourglass.comparison import report
from trax_hourglass.comparison import step_cost
from trax_hourglass.comparison import step_timer
from trax_hourglass.inference import decoding
from trax_hourglass.layers import plugins
from trax_hourglass.runtime import folder_lock
from trax_hourglass.runtime import gin_config
from trax_hourglass.training import run_directory
from trax_hourglass.training import step
from tests.helpers.doors import main
from tests.helpers.causality import assert_causal
from tests.helpers import comparisons

TRANSFORMER = ["include 'models/transformer_lm.gin'", 'TransformerLM.n_layers = 1', 'TransformerLM.d_model = 4',
               'TransformerLM.d_ff = 4', 'TransformerLM.n_heads = 1', 'TransformerLM.max_len = 20']
FAILS = """compare.own_rows = {
    'maximum': ['Hourglass.hierarchy = "0@1 1@3 0@1"', 'Hourglass.shortening = @ShortenByMaximum',
                'Hourglass.upsampling = @UpsampleByRepeat'],
    'fails': 'fit.eval_batches = 0'}"""
BREAKS = "compare.own_rows = {'breaks': ['Hourglass.hierarchy = \"0@1 1@3 0@1\"', 'Hourglass.shortening = @Breaks']}"


# What the README's "Add your own" shows, from here ...
@plugins.decodes
def ShortenByMaximum(spec, shorten_factor, tokens_per_vector):
  """The largest of each group's K numbers: (B, L, D) -> (B, L/K, D)."""
  del spec, tokens_per_vector
  def largest(x):
    return x.reshape(x.shape[0], -1, shorten_factor, x.shape[2]).max(axis=2)
  return tl.Fn(f'Maximum_{shorten_factor}', largest)


gin.external_configurable(ShortenByMaximum, module='my_project')
# ... to here.


@gin.configurable(module='my_project')
def Breaks(spec, shorten_factor, tokens_per_vector, early=False):
  """Raises an error when it is made, or when it is called."""
  if early:
    raise KeyError('made')
  def broken(x):
    raise KeyError('called')
  return tl.Fn('Broken', broken)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A comparison with a user-defined variant and a failing row: (folder, results)."""
  folder = tmp_path_factory.mktemp('comparison')
  return folder, comparisons.run(folder, FAILS)


def test_rows_have_bits_costs_and_spread(finished):
  rows = comparisons.by_name(finished[1])
  assert list(rows) == ['flat', 'drawn', 'maximum', 'fails', 'drawn, k = 3']
  for name in ('flat', 'drawn', 'maximum', 'drawn, k = 3'):
    row = rows[name]
    bits = list(row['bits_of_seeds'].values())
    assert len(bits) == 2 and 4 < row['bits_per_byte'] < 9 and not row['errors']
    np.testing.assert_allclose(row['bits_per_byte'], np.mean(bits))
    np.testing.assert_allclose(row['spread'], np.std(bits, ddof=1))
    assert row['n_steps'] == 3 and row['tokens'] == 3 * 2 * 13 and row['training_seconds'] > 0
    assert min(row[name] for name in ('n_parameters', 'step_flops', 'step_bytes', 'planned_step_seconds')) > 0
    np.testing.assert_allclose(row['run_flops'], 3 * row['step_flops'])
  assert rows['flat']['kind'] == 'flat' and rows['maximum']['kind'] == 'hierarchical'
  assert rows['drawn']['bits_per_byte'] != rows['drawn, k = 3']['bits_per_byte']
  np.testing.assert_allclose(rows['flat']['gap'], rows['flat']['bits_per_byte'] - 5.5)


def test_a_failed_row_is_reported_in_results_and_table(finished):
  folder, results = finished
  row = comparisons.by_name(results)['fails']
  assert row['n_seeds'] == 0 and 'eval_batches is 0' in row['errors'][0]
  table = (folder / 'table.md').read_text()
  assert '| fails |' in table and 'fails: eval_batches is 0' in table


def test_learning_curves_match_the_run_directories(finished):
  folder, results = finished
  for points in comparisons.by_name(results)['flat']['curves'].values():
    steps, bits = zip(*points)
    assert steps == (1, 2, 3) and all(4 < b < 9 for b in bits)
  told = comparisons.by_name(results)['flat']['curves'][1]
  assert run_directory.curve(folder / 'flat' / 'seed_1') == list(map(tuple, told))


def test_tables_agree_with_the_results(finished):
  folder, results = finished
  assert json.loads((folder / 'results.json').read_text())['rows'] == json.loads(json.dumps(results))['rows']
  rows = comparisons.by_name(results)
  with open(folder / 'table.csv', encoding='utf-8') as file:
    lines = {line['name']: line for line in csv.DictReader(file)}
  assert set(lines) == set(rows)
  for name in set(rows) - {'fails'}:
    assert float(lines[name]['bits_per_byte']) == rows[name]['bits_per_byte']
  table = (folder / 'table.md').read_text()
  assert f'| flat | {rows["flat"]["bits_per_byte"]:.4f} ± {rows["flat"]["spread"]:.4f} | 5.500 |' in table


def test_plots_are_small_images(finished):
  for name in ('cost.png', 'memory.png', 'step_time.png', 'curves.png'):
    data = (finished[0] / name).read_bytes()
    assert len(data) < 150_000 and tf.io.decode_png(data).shape[:2] == (420, 760)


def test_rows_share_all_settings_but_the_model_and_seed(finished):
  folder, _ = finished
  for seed in (0, 1):
    opened = run_directory.load(folder / 'flat' / f'seed_{seed}')
    assert opened.step == 3 and gin_config.bound('fit.seed') == seed
  settings = [
      json.loads((folder / name / 'row.json').read_text())['settings'].splitlines() for name in ('flat', 'maximum')
  ]
  assert all(line.startswith('Hourglass.') for line in set(settings[0]) ^ set(settings[1]))


def test_only_failed_rows_are_trained_again(finished, monkeypatch):
  folder, results = finished
  trained = []
  original = compare_lib.Comparison._train
  monkeypatch.setattr(compare_lib.Comparison, '_train', lambda self, row, *args: (trained.append(row.name),
                                                                                  original(self, row, *args))[1])
  assert comparisons.run(folder, FAILS)['rows'] == results['rows']
  assert trained == ['fails', 'fails']


def test_a_lost_result_is_restored_from_the_run_directory(finished, tmp_path, monkeypatch):
  folder, results = finished
  folder = shutil.copytree(folder, tmp_path / 'copy')
  before = comparisons.by_name(results)['flat']
  (folder / 'flat' / 'seed_0' / 'result.json').unlink()
  monkeypatch.setattr(budget_lib.Planner, 'measure', lambda self, row: {'error': 'planned already'})
  after = comparisons.by_name(comparisons.run(folder, FAILS))['flat']
  assert after['bits_of_seeds'] == before['bits_of_seeds'] and after['training_seconds'] == before['training_seconds']


def test_own_rows_can_be_added_to_a_finished_comparison(finished, tmp_path, monkeypatch):
  folder = shutil.copytree(finished[0], tmp_path / 'copy')
  monkeypatch.setattr(compare_lib.Comparison, '_run_once', lambda self, seed, directory, row: {'error': 'not run'})
  wide = FAILS.replace('{', "{'wide': 'Hourglass.d_ff = 11',")
  rows = comparisons.by_name(comparisons.run(folder, wide, 'compare.seeds = (0,)'))
  assert rows['wide']['errors'] == ['not run'] and rows['flat']['n_seeds'] == 1


def test_a_locked_comparison_folder_is_refused(finished, tmp_path):
  folder = shutil.copytree(finished[0], tmp_path / 'copy')
  lock = folder_lock.take(folder, 'compare.lock', 'compares')
  with pytest.raises(ValueError, match=r"process \d+ of .* compares in '.*copy': wait for it or give another"):
    comparisons.run(folder, FAILS)
  os.close(lock)
  comparisons.run(folder, FAILS)
  os.close(folder_lock.take(folder, 'compare.lock', 'compares'))  # The comparison released the lock.


def test_a_folder_with_results_of_other_settings_is_refused(finished):
  folder, _ = finished
  with pytest.raises(ValueError, match="flat holds results of other settings, 'batch_size = 2' where.*'batch_size = 3' "
                                       "now"):
    comparisons.run(folder, 'batch_size = 3')
  with pytest.raises(ValueError, match="'compare.steps = 3' where there is 'compare.steps = 4' now"):
    comparisons.run(folder, 'compare.steps = 4')
  kept = (folder / 'comparison.gin').read_bytes(), (folder / 'results.json').read_bytes()
  with pytest.raises(ValueError, match='rows that this comparison does not have, drawn, fails, flat, maximum: give'):
    comparisons.run(folder, "compare.rows = {'other': ''}", 'compare.also_evaluate = None', 'compare.paper = None')
  assert kept == ((folder / 'comparison.gin').read_bytes(), (folder / 'results.json').read_bytes())


def test_compare_only_selects_rows_by_name(tmp_path, monkeypatch):
  monkeypatch.setattr(budget_lib.Planner, 'measure', lambda self, row: comparisons.MEASURED)
  monkeypatch.setattr(compare_lib.Comparison, '_run_once', lambda self, seed, directory, row: {'error': 'not run'})
  rows = comparisons.by_name(comparisons.run(tmp_path, 'compare.only = ("drawn",)'))
  assert list(rows) == ['drawn', 'drawn, k = 3']
  assert list(comparisons.by_name(comparisons.run(
      tmp_path, 'compare.only = ("flat", "drawn")'))) == ['flat', 'drawn', 'drawn, k = 3']
  own = 'compare.own_rows = {"mine": "", "other": ""}'
  assert list(comparisons.by_name(comparisons.run(tmp_path / 'own', own, 'compare.only = ("mine",)'))) == ['mine']


def test_own_shortening_is_causal_and_can_be_sampled(finished):
  model = th.Hourglass(pairs.VOCAB, '1@1 1@3 0@1', pairs.D_MODEL, pairs.D_FF, pairs.N_HEADS, mode='eval',
                       shortening=ShortenByMaximum)
  assert_causal(pairs.initialise(model, 13), 13)
  opened = run_directory.load(finished[0] / 'maximum' / 'seed_0', mode='predict',
                              bindings=['Hourglass.max_length = 20'])
  sample, = decoding.Sampler(opened.model, decoding.Choice(temperature=0.0)).sample([b'def'], length=5)
  assert len(sample.tokens) == 5
  text = b'def' + bytes(sample.tokens.astype(np.uint8))
  log_probs, = decoding.score(opened.model, [text])
  np.testing.assert_allclose(log_probs[3:], sample.log_probs, atol=1e-4)


def test_readme_shows_the_own_shortening():
  source = pathlib.Path(__file__).read_text()
  shown = source[source.index('@plugins.decodes'):source.index('# ... to here.')].strip().replace('plugins.', '')
  assert textwrap.indent(shown, '    ') in (processes.ROOT / 'README.md').read_text()


def test_command_prints_results_and_exits_1_on_a_failed_row(finished, monkeypatch, capsys):
  folder, results = finished
  assert main(monkeypatch, '--output_dir', folder, '--json', command=compare) == 1  # One row failed.
  out, _ = capsys.readouterr()
  assert json.loads(out)['rows'][0] == json.loads(json.dumps(results['rows'][0]))


def test_ctrl_c_keeps_finished_results(tmp_path, monkeypatch, capsys):
  def run_once(self, seed, directory, row):
    if row.name == 'drawn':
      raise KeyboardInterrupt
    return {'seed': seed, 'bits': 5.0, 'standard_error': 0.1, 'n_tokens_scored': 9,
            'curve': [(1, 8.0), (3, 5.0)]}

  monkeypatch.setattr(compare_lib.Comparison, '_run_once', run_once)
  monkeypatch.setattr(step_cost, 'measure', lambda *args, **kwargs: comparisons.MEASURED)
  files = '--config_file', comparisons.TINY, '--config', comparisons.CORPUS, '--output_dir', tmp_path / 'x'
  assert main(monkeypatch, *files, command=compare) == 130
  assert 'stopped' in capsys.readouterr().err
  assert json.loads((tmp_path / 'x' / 'flat' / 'seed_0' / 'result.json').read_text())['bits'] == 5.0
  assert '5.0000' in (tmp_path / 'x' / 'table.md').read_text()


@pytest.mark.parametrize('bindings, message', [
    (['compare.rows = {}'], 'compare.rows is {}'), (['compare.rows = None'], 'compare.rows is None'),
    (['compare.rows = ["6@1"]'], "compare.rows is ['6@1']"), (['compare.own_rows = {"a": 3}'], "own_rows has 'a': 3"),
    (['compare.own_rows = {"a": "fit.model = @NoSuchModel"}'], "row 'a': No configurable matching reference "
                                                               "'@NoSuchModel'"),
    (['compare.own_rows = {"a": "Hourglass.hierarchy = \'3@2\'"}'], "row 'a': hierarchy '3@2'"),
    (['compare.own_rows = {"a": "Hourglass.d_model ="}'], "row 'a'"),
    (['compare.own_rows = {"a b": "", "a_b": ""}'], "'a b' and 'a_b'"),
    (['compare.own_rows = {"a": "fit.n_steps = 5"}'], "row 'a': fit.n_steps does not follow"),
    (['compare.also_evaluate = {"b": ("no such row", "")}'], "'no such row'"),
    (['compare.also_evaluate = "x"'], "also_evaluate is 'x'"),
    (['compare.also_evaluate = {3: ("flat", "")}'], 'also_evaluate is {3'),
    (['compare.also_evaluate = {"b": ("flat", 3)}'], "also_evaluate['b'] is ('flat', 3)"),
    (['compare.also_evaluate = {"b": (["flat"], "")}'], "also_evaluate['b'] is (['flat'], '')"),
    (['compare.only = ("none",)'], "compare.only is ('none',): give some of the rows 'flat', 'drawn'"),
    (['compare.only = "flat"'], "compare.only is 'flat'"), (['compare.only = ()'], 'compare.only is ()'),
    (['compare.own_rows = {"table.md": ""}'], "row 'table.md' would have the folder 'table.md'"),
    (['compare.own_rows = {"..": ""}'], "row '..' would have the folder '..'"),
    (['compare.steps = None', 'compare.seconds = 9', 'WarmupCosine.n_steps = 50'],
     "row 'flat': WarmupCosine.n_steps is 50 for every budget"),
    (['compare.warmup = 0.3', 'WarmupCosine.warmup_steps = 1'], 'no schedule takes the macro warmup_steps'),
    ([f'compare.own_rows = {{"a": {TRANSFORMER}}}', 'compare.protocol = "ablation"'],
     "row 'a': it does not take windows of 2048 tokens"),
    (['compare.own_rows = {"flat": ""}'], "own_rows has 'flat', as compare.rows has"),
    (['compare.seeds = ([0],)'], 'seeds is ([0],)'),
    (['compare.paper = {"no such row": 1.0}'], "'no such row'"), (['compare.paper = 1.1'], 'compare.paper is 1.1'),
    (['compare.paper = {"flat": "1.18"}'], "'flat': '1.18'"), (['compare.max_tokens = 0'], 'compare.max_tokens is 0'),
    (['compare.own_rows = {"a": "fit.corpus = None"}'], "row 'a'"),
    (['warmup_steps = 4'], 'warmup_steps is 4 of n_steps 3'),
    (['compare.steps = 0'], 'compare.steps is 0'), (['compare.steps = 1.5'], 'compare.steps is 1.5'),
    (['compare.seconds = 5'], 'compare.steps = 3 and compare.seconds = 5 given'),
    (['compare.steps = None'], 'no budget given'),
    (['compare.steps = None', 'compare.flops = -1'], 'compare.flops is -1'),
    (['compare.seeds = ()'], 'compare.seeds is ()'),
    (['compare.seeds = (1, 1)'], 'compare.seeds is (1, 1)'), (['compare.warmup = 1.5'], 'compare.warmup is 1.5'),
    (['compare.n_evaluations = 0'], 'compare.n_evaluations is 0'), (['compare.protocol = "papers"'], "'papers'"),
    (['compare.split = "tests"'], 'tests'), (['compare.stepz = 1'], 'stepz'), (['batch_size = 0'], 'batch_size is 0'),
])
def test_user_errors_are_one_line_with_exit_code_2(tmp_path, monkeypatch, capsys, bindings, message):
  arguments = [argument for binding in bindings for argument in ('--config', binding)]
  files = '--config_file', comparisons.TINY, '--config', comparisons.CORPUS, '--output_dir', tmp_path / 'x'
  assert main(monkeypatch, *files, *arguments, command=compare) == 2
  out, err = capsys.readouterr()
  assert out == '' and len(err.strip().splitlines()) == 1 and err.startswith('compare: ') and message in err
  assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize('arguments, message', [
    ([], 'give a --config_file'), (['--config_file', comparisons.TINY], 'holds files that are not of a comparison'),
    (['--config_file', 'quickstart.gin'], 'no budget given')])
def test_unusable_folders_and_configs_are_refused(tmp_path, monkeypatch, capsys, arguments, message):
  (tmp_path / 'notes.txt').write_text('mine')
  assert main(monkeypatch, '--output_dir', tmp_path, *arguments, command=compare) == 2
  assert message in capsys.readouterr().err and [file.name for file in tmp_path.iterdir()] == ['notes.txt']


def test_training_seconds_survive_a_killed_run(tmp_path, monkeypatch):
  original = step_timer.Clock.on_step_end

  def die_at_step_3(self, step):
    if step == 3:
      self._loop._record.store.wait()  # Waits until the checkpoint of step 2 is written.
      raise SystemExit('killed')
    original(self, step)

  monkeypatch.setattr(step_timer.Clock, 'on_step_end', die_at_step_3)
  row = ('compare.rows = {"flat": "Hourglass.hierarchy = \'1@1\'"}', 'compare.also_evaluate = None',
         'compare.paper = None', 'compare.seeds = (0,)')
  with pytest.raises(SystemExit):
    comparisons.run(tmp_path, *row)
  seconds = tmp_path / 'flat' / 'seed_0' / 'seconds.json'
  before = step_timer.read(seconds)
  assert [(step, n_timed) for step, _, n_timed in before] == [(1, 0), (2, 1)]
  monkeypatch.setattr(step_timer.Clock, 'on_step_end', original)
  found, = comparisons.run(tmp_path, *row)['rows']
  assert step_timer.read(seconds) == [*before, (3, before[-1][1], 1)]  # The first step after a restart is not timed.
  np.testing.assert_allclose(found['training_seconds'], 3 * before[-1][1])


def test_macros_that_only_rows_read_may_be_bound(tmp_path, monkeypatch):
  monkeypatch.setattr(compare_lib.Comparison, '_run_once', lambda self, seed, directory, row: {'error': 'not run'})
  row, = comparisons.run(tmp_path, "compare.rows = {'a': 'Hourglass.dropout = %rate'}", 'rate = 0.25',
                         'compare.also_evaluate = None', 'compare.paper = None')['rows']
  assert row['errors'][0] == 'not run'


def test_errors_of_plug_ins_show_where_they_began(tmp_path, capsys):
  with pytest.raises(KeyError, match='made'):
    comparisons.run(tmp_path / 'early', BREAKS, 'compare.only = ("breaks",)', 'Breaks.early = True')
  row, = comparisons.run(tmp_path / 'late', BREAKS, 'compare.only = ("breaks",)')['rows']
  assert row['errors'][0] == "KeyError: 'called'"
  assert "raise KeyError('called')" in capsys.readouterr().err


def test_changed_scoring_rescores_without_training(finished, tmp_path, monkeypatch):
  folder = shutil.copytree(finished[0], tmp_path / 'copy')

  def no_step(*_):
    raise AssertionError('a step was trained')

  monkeypatch.setattr(step.Trainer, 'one_step', no_step)
  original, seen = report.write, []
  monkeypatch.setattr(report, 'write', lambda folder, results: (seen.append(results), original(folder, results)))
  rows = comparisons.by_name(comparisons.run(folder, FAILS, 'compare.max_tokens = 40', 'compare.seeds = (0,)'))
  assert rows['flat']['bits_per_byte'] != comparisons.by_name(
      finished[1])['flat']['bits_of_seeds'][0] and not rows['flat']['errors']
  # No intermediate table mixes bits of the old and the new scoring.
  assert [row['n_seeds'] for row in seen[0]['rows'][:2]] == [1, 0]
