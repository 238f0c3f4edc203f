"""Tests plans: they give the sizes of a run and its files without running it; errors are one line."""

import importlib.util
import json
import pathlib

import gin
import numpy as np
import pytest
from trax import shapes

from tests.helpers import processes
from tests.helpers import runs
from tests.helpers import sampling
from trax_hourglass import plan
from trax_hourglass.planning import compiled_step
from trax_hourglass.planning import drawing
from trax_hourglass.planning import planner
from trax_hourglass.planning import topologies
from trax_hourglass.runtime import gin_config
from trax_hourglass.training import checkpoints

FILES = ['quickstart.gin', *sorted(str(path.relative_to(gin_config.GIN_FOLDER)) for folder in ('paper', 'baselines')
                                   for path in (gin_config.GIN_FOLDER / folder).glob('*.gin'))]


def configure(*bindings, files=(runs.TINY,)):
  gin.clear_config()
  gin_config.parse_gin(files, bindings)


def planned(capsys, *arguments):
  """Returns the output of `plan --json` for the tiny run, and its error line."""
  gin.clear_config()
  code = 0
  try:
    plan.main(['--json', '--config_file', runs.TINY, *arguments])
  except SystemExit as ended:
    code = ended.code
  out, err = capsys.readouterr()
  return code, json.loads(out) if out else None, err.splitlines()[-1] if err else ''


def bindings(*lines):
  return [flag for line in lines for flag in ('--config', line)]


def test_planned_sizes_equal_those_of_the_run_and_its_files(tiny_run):
  configure(*runs.HOURGLASS, 'Hourglass.max_length = 90')
  sizes = planner.sizes(planner.Settings.read())
  path, _, result = tiny_run
  assert sizes.n_parameters == result.n_parameters
  stored = checkpoints.Store(path).read(30)
  nbytes = lambda *parts: sum(np.asarray(leaf).nbytes for part in parts for leaf in stored[part])
  assert sizes.weight_bytes == nbytes('weights') and sizes.slot_bytes == nbytes('slots')
  assert sizes.checkpoint_bytes == nbytes('weights', 'state', 'slots')
  model = planner.Settings.read().model(mode='predict')
  model.init(shapes.ShapeDtype((1, 1), np.int32))
  assert sizes.cache_bytes == model.state_bytes
  assert [level.length for level in sizes.levels] == [15, 5] and sizes.padded_length == 15 and sizes.length == 13
  assert [level.n_layers for level in sizes.levels] == [(0, 0), (1,)]
  assert sizes.n_tokens == 4 * 2 * 13 and sizes.step_flops == pytest.approx(2 * 13 * sizes.flops_per_token)


def test_parameters_and_flops_of_the_parts_sum_to_the_whole():
  configure("Hourglass.hierarchy = '1@1 2@2 1@4 1@2 2@1'", 'Hourglass.d_model = (14, 28, 42)')
  sizes = planner.sizes(planner.Settings.read())
  assert [(level.factor, level.d_model, level.n_layers) for level in sizes.levels] == [
      (1, 14, (1, 2)), (2, 28, (2, 1)), (4, 42, (1,))]
  embedding = 256 * 14 + 14 * 256 + 256
  of_levels = sum(level.n_parameters for level in sizes.levels)
  assert sizes.n_parameters - sizes.resampling_parameters - of_levels == embedding
  rest = 1 - sizes.resampling_flops_share - sum(level.flops_share for level in sizes.levels)
  assert rest == pytest.approx(3 * 2 * 2 * 13 * 14 * 256 / sizes.step_flops, rel=0.3)  # Padding counts.
  text = '\n'.join(drawing.whole(sizes))
  assert '    1        16      14        1' in text and '    2         8      28        2' in text


def test_alternative_factors_count_as_one_level():
  lines = "Hourglass.hierarchy = '1@1 3@3|5 1@1'", 'UpsampleByAttention.added = @UpsampleByRepeat'
  configure(*lines)
  drawn = planner.sizes(planner.Settings.read())
  assert [(level.factor, level.n_layers) for level in drawn.levels] == [(1, (1, 1)), (3, (3,))]
  shares = []
  for factor in 3, 5:
    configure(lines[0].replace('3|5', str(factor)), lines[1])
    one = planner.sizes(planner.Settings.read())
    shares.append(one.levels[1].flops_share * one.step_flops)
    assert one.levels[1].n_parameters == drawn.levels[1].n_parameters
    assert one.resampling_parameters == drawn.resampling_parameters > 0
  assert drawn.levels[1].flops_share * drawn.step_flops == pytest.approx(sum(shares) / 2, rel=1e-3)


@pytest.mark.parametrize('file', sampling.some(['quickstart.gin', 'paper/imagenet32.gin'], FILES))
def test_every_config_of_a_run_has_a_plan(file):
  configure(*(["Wiki40b.sentencepiece = 'a.model'"] if 'wiki40b' in file else []), files=[file])
  sizes = planner.sizes(planner.Settings.read())
  assert sizes.n_parameters > 5e5 and sizes.weight_bytes == 4 * sizes.n_parameters
  assert drawing.short(sizes)


def test_topology_cpu_compiles_the_step(capsys):
  code, found, _ = planned(capsys, '--topology', 'cpu')
  assert code == 0 and found['fits'] and found['collectives'] == {} and found['n_devices'] == 1
  configure()
  program = planner.step_program.StepProgram(planner.Settings.read(), topologies.mesh('cpu', 1))
  memory = program.traced().lower().compile().memory_analysis()
  assert found['temporary_bytes'] == memory.temp_size_in_bytes
  assert found['argument_bytes'] == memory.argument_size_in_bytes
  assert found['argument_bytes'] >= found['weight_bytes'] + found['slot_bytes']
  assert found['device_bytes'] >= found['argument_bytes'] + found['temporary_bytes']
  assert sum(found['products'].values()) > 10 and set(found['products']) == {'f32 x f32 -> f32'}
  assert found['compile_seconds'] > 0 and found['lower_bound_seconds'] is None
  assert found['attention'] == ['tiles'] and found['estimated_cycles'] is None


def test_a_step_that_does_not_fit_names_the_excess_and_a_remedy(capsys, monkeypatch):
  monkeypatch.setitem(topologies.CHIPS, 'cpu', topologies.Chip('cpu', memory_bytes=2**10))
  code, found, line = planned(capsys, '--topology', 'cpu')
  assert code == 2 and not found['fits']
  over = (found['device_bytes'] - 2**10) / 2**10
  assert f'which has 1.00 KiB: {over:.2f} KiB too much; set Hourglass.recompute' in line


@pytest.mark.parametrize('words', [
    'memory space hbm. Used 20.10G of 15.75G hbm. Exceeded hbm capacity by 4.35G.',
    'HBM, the total memory required for HLO temporaries (20.10G) exceeds available HBM (15.75G).'])
def test_compiler_out_of_memory_is_reported_in_one_line(words):
  class Refusing:
    def traced(self):
      return self

    def lower(self):
      return self

    def compile(self):
      raise RuntimeError(f'RESOURCE_EXHAUSTED: Ran out of memory in {words}')

  with pytest.raises(ValueError, match='memory of v5e: it needs 20.10G of 15.75G, 4.35G too much; set'):
    compiled_step.compile_step(Refusing(), 'v5e', 1, 'float32', 1)


@pytest.mark.parametrize('arguments, message', [
    (['--topology', 'v7'], "--topology is 'v7': choose one of cpu, v4, v5e, v5p, v6e, h100, h200, TPUs with"),
    (['--topology', 'v5e:2'], "--topology is 'v5e:2': choose"),
    (['--topology', 'h100:2x2'], "--topology is 'h100:2x2': choose"),
    (['--topology', 'cpu', '--n_devices', '0'], '--n_devices is 0: give a number above 0'),
    (['--topology', 'cpu', '--n_devices', '64', '--config', 'batch_size = 64'], '--n_devices is 64: cpu has 1'),
    (['--n_devices', '2'], '--n_devices is 2 without --topology: give one'),
    (['--topology', 'cpu', '--config', 'batch_size = 0'], 'batch_size is 0: give a whole number above 0'),
    (['--config', "fit.dtype = 'float16'"], "dtype is 'float16': choose one of 'float32', 'bfloat16'"),
])
def test_invalid_flags_are_refused(capsys, arguments, message):
  code, found, line = planned(capsys, *arguments)
  assert code == 2 and found is None and line.startswith(f'plan: {message}'), line


def test_a_missing_compiler_is_named(capsys, monkeypatch):
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda name: None)
  for topology, package in (('v5e:2x2', 'jax[tpu]'), ('h100', 'jax[cuda12]')):
    code, _, line = planned(capsys, '--topology', topology)
    assert code == 2 and f"pip install '{package}'" in line


def test_a_config_without_a_model_is_refused(capsys, tmp_path):
  (tmp_path / 'empty.gin').write_text('n_steps = 1\n')
  gin.clear_config()
  with pytest.raises(SystemExit):
    plan.main(['--config_file', str(tmp_path / 'empty.gin')])
  assert 'plan: the config says nothing about fit.' in capsys.readouterr().err


def test_train_prints_the_short_plan_before_the_first_step(tmp_path, capsys):
  from trax_hourglass import train  # pylint: disable=g-import-not-at-top
  gin.clear_config()
  train.main(['--plan', '--config_file', runs.TINY, '--output_dir', str(tmp_path / 'run'),
              *bindings('n_steps = 1', 'warmup_steps = 0', 'fit.max_valid_tokens = 10')])
  err = capsys.readouterr().err
  assert err.index('parameters    ') < err.index('compiling ...') and 'FLOPs         ' in err


# XLA for GPUs has no product of 14 x 14 matrices.
WHOLE_TILES = 'Hourglass.d_model = 64', 'Hourglass.d_ff = 128', 'Hourglass.n_heads = 2', 'length = 64'


@pytest.mark.parametrize('package, topology', [('libtpu', 'v5e'), ('jax_cuda12_plugin', 'h100')])
def test_an_accelerator_compiler_compiles_a_step(package, topology):
  if importlib.util.find_spec(package) is None:
    pytest.skip(f'{package} is not installed')
  places = processes.ROOT, pathlib.Path(importlib.util.find_spec(package).origin).parent.parent
  result = processes.python('-m', 'trax_hourglass.plan', '--config_file', runs.TINY, '--topology', topology, '--json',
                            *bindings("fit.dtype = 'bfloat16'", *WHOLE_TILES), PYTHONPATH=':'.join(map(str, places)))
  assert result.returncode == 0, result.stderr
  found = json.loads(result.stdout)
  assert found['fits'] and found['lower_bound_seconds'] > 0 and found['collectives'] == {}
  assert found['attention'] == (['tpu'] if topology == 'v5e' else ['tiles'])
  assert topology != 'v5e' or found['estimated_cycles'] > 1e4
  assert not any(kind.startswith(('f32 x f32', 'f32 x bf16', 'bf16 x f32')) for kind in found['products'])
