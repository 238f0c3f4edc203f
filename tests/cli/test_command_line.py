"""Tests the command lines end to end: fast --help, one-line errors with exit code 2, one JSON object on stdout."""

import json
import shlex
import signal
import sys

import pytest
from tests.helpers import doors
from tests.helpers import processes

from trax_hourglass import __main__
from trax_hourglass.cli import command_line

TINY = str(processes.ROOT / 'tests' / 'tiny.gin')


@pytest.mark.parametrize('command', ['train', 'evaluate', 'generate', 'compare', 'export', 'plan'])
def test_help_imports_nothing_heavy(command):
  result = processes.python('-X', 'importtime', '-m', f'trax_hourglass.{command}', '--help')
  imported = {line.rpartition('|')[2].strip().split('.')[0] for line in result.stderr.splitlines()}
  assert f'usage: python -m trax_hourglass.{command} ' in result.stdout
  assert ('--topology' if command == 'plan' else '--output_dir') in result.stdout
  assert 'argparse' in imported and not imported & {'jax', 'trax', 'tensorflow', 'numpy'}


def test_package_lists_the_commands_and_runs_them():
  listing = processes.python('-m', 'trax_hourglass')
  assert listing.returncode == 0 and all(f'  {name} ' in listing.stdout for name in ('train', 'evaluate', 'export'))
  help_of_one = processes.python('-m', 'trax_hourglass', 'export', '--help')
  assert help_of_one.returncode == 0 and '--authors' in help_of_one.stdout
  unknown = processes.python('-m', 'trax_hourglass', 'trian')
  assert unknown.returncode == 2 and "'trian' is not a command" in unknown.stderr


def test_all_names_exist_under_python_m_of_another_package(tmp_path):
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / '__init__.py').write_text('import trax_hourglass\n')
  (tmp_path / 'other' / 'run.py').write_text('import trax_hourglass as th\nprint(th.Hourglass.__name__, "fit" in '
                                             'vars(th))\n')
  result = processes.python('-m', 'other.run', PYTHONPATH=f'{processes.ROOT}:{tmp_path}')
  assert result.stdout == 'Hourglass True\n', result.stderr


def test_train_prints_json_or_one_plain_line(tmp_path, monkeypatch, capsys):
  run = tmp_path / 'my run (1)'
  assert doors.main(monkeypatch, '--config_file', TINY, '--output_dir', run, '--json') == 0
  out, err = capsys.readouterr()
  result = json.loads(out)
  assert result['step'] == 4 and result['output_dir'] == str(run) and 'bits/byte' in err and 'tokens/s' in err
  assert doors.main(monkeypatch, '--output_dir', run) == 0  # Reads the saved config; no steps are left.
  out, _ = capsys.readouterr()
  lines = out.strip().splitlines()
  assert len(lines) == 1 and str(run) in lines[0] and f'{result["valid_bits_per_byte"]:.4f} valid bits' in lines[0]
  told = shlex.split(lines[0].partition('to continue: ')[2])
  assert told[1:5] == ['-m', 'trax_hourglass.train', '--output_dir', str(run)] and told[-1] == 'n_steps = 8'


@pytest.mark.parametrize(
    'arguments, message',
    [(['--config_file', 'no_such.gin'], 'no_such.gin'), (['--config', 'Hourglas.d_model = 3'], 'Hourglas'),
     (['--config', 'Hourglass.d_modell = 3'], 'd_modell'), (['--config', 'Hourglass.d_model'], 'Hourglass.d_model'),
     (['--config', 'Hourglass.d_model = 15'], 'd_model is 15'),
     (['--config', 'Hourglass.n_heads = 3'], '14 does not divide among 3 heads'),
     (['--config', 'Hourglass.hierarchy = "3@2"'], '3@2'), (['--config', 'Hourglass.hierarchy = 3'], 'hierarchy 3'),
     (['--config', 'Hourglass.vocab_size = 50'], 'outside the vocabulary'),
     (['--config', 'length = 999999999'], 'longer than'), (['--config', 'batch_size = 0'], 'batch_size is 0'),
     (['--config', 'batch_size = "many"'], 'batch_size'), (['--config', 'peak_learning_rate = "fast"'], 'fast'),
     (['--config', 'ByteCorpus.path = "{tmp}/empty"'], '0 bytes'),
     (['--config', 'ByteCorpus.path = "{tmp}/one"'], '1 bytes'),
     (['--config', 'ByteCorpus.path = "{tmp}/none"'], 'does not exist'),
     (['--config', 'Hourglass.shortening = @NoSuchShortening'], 'NoSuchShortening'),
     (['--config', 'Hourglass.d_model = "wide"'], "d_model is 'wide'"),
     (['--config', 'Hourglass.d_ff = 100000000000'], 'not enough memory, Unable to allocate 5.09 TiB'),
     (['--config', 'Hourglass.d_ff = 12345678901234567890'], 'd_ff is 12345678901234567890: give a whole number below'),
     (['--config', 'batch_size = 12345678901234567890'], 'batch_size is 12345678901234567890: give a whole number'),
     (['--config', 'Hourglass.ff_activation = 3'], 'ff_activation is 3'),
     (['--config', 'Hourglass.dropout_shared_axes = 3'], 'dropout_shared_axes is 3'),
     (['--config', 'Hourglass.vanilla_attention = @UpsampleByNothing'], 'UpsampleByNothing cannot be made, '),
     (['--config', 'trax.optimizers.Adam.eps = "x"'], 'Adam cannot be made, '),
     (['--config', 'trax.optimizers.Adam.b1 = (1, 2)'], 'b1 of the optimizer is [1, 2]'),
     (['--config', 'trax.optimizers.Adam.clip_grad_norm = "x"'], "clip_grad_norm of the optimizer is 'x'"),
     (['--config', 'trax.optimizers.Adam.clip_grad_norm = 12345678901'], 'clip_grad_norm of the optimizer is 123'),
     (['--config', 'fit.optimizer = @trax.optimizers.Adam'], 'give a reference such as @trax.optimizers.Adam()'),
     (['--config', 'fit.corpus = @ByteCorpus'], 'give a reference such as @ByteCorpus()'),
     (['--config', 'fit.corpus = "text"'], "corpus is 'text': give a reference such as @ByteCorpus()"),
     (['--config', 'fit.schedule = @WarmupCosine'], 'gives no learning rate for a step'),
     ([
         '--config', 'fit.schedule = @CosineEnd()', '--config', 'CosineEnd.before = 3', '--config',
         'CosineEnd.first_step = 1', '--config', 'CosineEnd.n_steps = 3'
     ], 'before of the learning rate schedule is 3'), (['--config', 'fit.callbacks = 3'], 'callbacks'),
     (['--output_dir', '{tmp}/one'], '{tmp}/one'),])
def test_user_errors_are_one_line_with_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
  (tmp_path / 'empty').write_bytes(b'')
  (tmp_path / 'one').write_bytes(b'x')
  before = sorted(tmp_path.iterdir())
  arguments = [argument.replace('{tmp}', str(tmp_path)) for argument in arguments]
  files = [] if '--config_file' in arguments else ['--config_file', TINY]
  output = [] if '--output_dir' in arguments else ['--output_dir', tmp_path / 'run']
  assert doors.main(monkeypatch, *files, *output, *arguments) == 2
  out, err = capsys.readouterr()
  assert out == '' and len(err.strip().splitlines()) == 1 and err.startswith('train: ')
  assert message.replace('{tmp}', str(tmp_path)) in err
  assert sorted(tmp_path.iterdir()) == before


def test_internal_errors_keep_their_traceback():
  for error in (TypeError('unsupported'), RuntimeError('odd'), KeyError('x')):
    with pytest.raises(type(error)), command_line.errors_as_one_line('train'):
      raise error


def test_device_out_of_memory_is_reported_with_exit_code_2(capsys):
  with pytest.raises(SystemExit) as stop, command_line.errors_as_one_line('train'):
    raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.')
  said = capsys.readouterr().err
  assert stop.value.code == 2 and said.startswith('train: not enough memory, RESOURCE_EXHAUSTED: Out of')


def test_ctrl_c_prints_one_line_and_exits_with_code_130(capsys):
  with pytest.raises(SystemExit) as stop, command_line.errors_as_one_line('train'):
    raise KeyboardInterrupt
  assert stop.value.code == 130 and capsys.readouterr().err == 'train: stopped\n'


def test_sigterm_exits_with_code_143_and_its_handler_is_restored():
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as stop, command_line.errors_as_one_line('train'):
    signal.raise_signal(signal.SIGTERM)
  assert stop.value.code == 143 and signal.getsignal(signal.SIGTERM) == before


def test_gin_files_can_import_from_the_working_directory(tmp_path, monkeypatch, capsys):
  """Gin files import modules of the working directory, which `python -m` puts on sys.path and a script does not."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [entry for entry in sys.path if entry])
  (tmp_path / 'flat_rate.py').write_text('import gin\n\n@gin.register\ndef FlatRate():\n  return lambda step: 1e-3\n')
  (tmp_path / 'mine.gin').write_text("import flat_rate\ninclude 'quickstart.gin'\nfit.schedule = @FlatRate()\n")
  __main__.main(['plan', '--config_file', 'mine.gin', '--json'])
  assert json.loads(capsys.readouterr().out)['n_steps'] == 500


def test_files_and_modules_named_in_the_readme_exist():
  text = (processes.ROOT / 'README.md').read_text()
  commands = ('train', 'evaluate', 'generate', 'compare', 'plan')
  for word in text.replace('`', ' ').split():
    if word.startswith(('gin/', 'benchmarks/', 'tests/', 'trax_hourglass/')):
      assert (processes.ROOT / word.rstrip('.,;:)')).exists(), word
    if word.startswith('trax_hourglass.') and word.count('.') == 1 and word.split('.')[1] in commands:
      assert (processes.ROOT / word.replace('.', '/')).with_suffix('.py').exists(), word


def test_a_second_copy_of_the_package_is_reported(tmp_path, monkeypatch, capsys):
  (tmp_path / 'trax_hourglass').mkdir()
  (tmp_path / 'trax_hourglass' / '__init__.py').write_text('')
  monkeypatch.syspath_prepend(tmp_path)
  with command_line.errors_as_one_line('train'):
    pass
  said, = capsys.readouterr().err.splitlines()
  assert said == (f'train: there are other copies of trax_hourglass, in {tmp_path}/trax_hourglass; the one in use is '
                  f'{processes.ROOT}/trax_hourglass')
