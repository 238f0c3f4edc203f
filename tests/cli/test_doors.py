"""Tests each command in a separate process: it succeeds, and prints no messages of the libraries below."""

import json
import re

import pytest

from tests.helpers import processes
from tests.helpers import runs

# Messages of TensorFlow, CUDA, absl and Gym, and warnings.
NOTICES = re.compile(r'tensorflow|cuda|absl|gym|oneDNN|warning', re.IGNORECASE)


@pytest.mark.parametrize('command, flags, said', [
    ('train', ['--config_file', runs.TINY, '--output_dir', '{tmp}/run', '--config', 'n_steps = 1', '--config',
               'warmup_steps = 1', '--json'], 'step 1/1: '),
    ('evaluate', ['--output_dir', '{run}', '--max_tokens', '20', '--json'], ''),
    ('generate', ['--output_dir', '{run}', '--length', '3', '--json'], ''),
    ('export', ['--output_dir', '{run}', '--to', '{tmp}/model.pkl.gz'], ''),
    ('plan', ['--config_file', runs.TINY, '--topology', 'cpu', '--json'], 'compiling for 1 of cpu'),
    ('compare', ['--config_file', runs.TINY.replace('tiny.gin', 'tiny_compare.gin'), '--output_dir', '{tmp}/x',
                 '--config', 'compare.rows = {"a": "", "b": "Hourglass.d_ff = 11"}', '--config',
                 'compare.also_evaluate = None', '--config', 'compare.paper = None', '--config', 'compare.seeds = (0,)',
                 '--json'], ''),
])
def test_command_succeeds_without_library_messages(command, flags, said, tmp_path, tiny_run):
  flags = [flag.format(tmp=tmp_path, run=tiny_run[0]) if 'compare.rows' not in flag else flag for flag in flags]
  result = processes.python('-m', f'trax_hourglass.{command}', *flags, XLA_FLAGS=processes.QUICK)
  assert result.returncode == 0, result.stderr
  assert said in result.stderr and not NOTICES.search(result.stderr), result.stderr
  assert len(result.stdout.splitlines()) == 1
  if '--json' in flags:
    assert json.loads(result.stdout)
