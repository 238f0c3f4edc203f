"""Tests the environment of commands: closed streams, JAX_ENABLE_X64, and the paths and encoding of gin files."""

import json
import shlex
import subprocess
import sys
import textwrap

import gin
import pytest

from tests.helpers import processes
from trax_hourglass.runtime import errors
from trax_hourglass.runtime import gin_config


def test_a_closed_stdout_pipe_ends_silently_with_code_141():
  code = textwrap.dedent("""
      from trax_hourglass.cli import command_line
      with command_line.errors_as_one_line('generate'):
        for _ in range(100_000):
          print('text')""")
  process = processes.start_python('-c', code)
  assert process.stdout.read(5) == 'text\n'
  process.stdout.close()
  assert process.stderr.read() == '' and process.wait() == 141


def test_commands_compute_in_32_bits():
  code = textwrap.dedent("""
      import json, sys
      from trax_hourglass.cli import command_line
      with command_line.running(command_line.parser('train', '').parse_args(['--no_compilation_cache'])):
        import jax
        print(json.dumps(jax.config.jax_enable_x64))""")
  for value, said in ('1', 'JAX_ENABLE_X64 is set and has no effect here: models are computed in 32 bits\n'), ('0', ''):
    result = processes.python('-c', code, JAX_ENABLE_X64=value)
    assert (json.loads(result.stdout), result.stderr) == (False, said)


def test_gin_files_with_byte_order_mark_and_tilde_path_parse(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'own.gin').write_text("include '~/more.gin'\nn_steps = 5\n", encoding='utf-8-sig')
  (tmp_path / 'more.gin').write_text("include 'quickstart.gin'\nlength = 7\n", encoding='utf-8-sig')
  gin_config.parse_gin(['~/own.gin'], [])
  assert [gin.query_parameter(f'{name}/macro.value') for name in ('n_steps', 'length', 'batch_size')] == [5, 7, 8]


def test_an_include_takes_the_file_beside_the_including_one(tmp_path, monkeypatch):
  """Files of gin/ include others of gin/, whatever lies in the working directory."""
  (tmp_path / 'mine').mkdir()
  monkeypatch.chdir(tmp_path)
  for folder, value in (('.', 0.25), ('mine', 0.5)):
    text = (gin_config.GIN_FOLDER / 'base.gin').read_text()
    (tmp_path / folder / 'base.gin').write_text(text.replace('b1 = 0.9', f'b1 = {value}'))
  (tmp_path / 'mine' / 'quickstart.gin').write_text((gin_config.GIN_FOLDER / 'quickstart.gin').read_text())
  (tmp_path / 'mine' / 'compare.gin').write_text("include 'compare/quickstart.gin'")
  for path, value in (('mine/quickstart.gin', 0.5), ('quickstart.gin', 0.9), ('mine/compare.gin', 0.9)):
    gin_config.parse_gin([path], [])
    assert gin.query_parameter('trax.optimizers.Adam.b1') == value


def test_includes_resolve_beside_the_including_file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for folder, name, text in (('elsewhere', 'own.gin', "include 'deep/more.gin'\nn_steps = 5\n"),
                             ('elsewhere/deep', 'more.gin', "include 'last.gin'\ninclude 'quickstart.gin'\n"),
                             ('elsewhere/deep', 'last.gin', 'length = 7\nn_steps = 6\n'),
                             ('elsewhere', 'last.gin', 'length = 9\n')):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / name).write_text(text)
  gin_config.parse_gin(['elsewhere/own.gin'], [])
  macro = lambda name: gin.query_parameter(f'{name}/macro.value')
  assert (macro('n_steps'), macro('batch_size')) == (5, 8)
  (tmp_path / 'elsewhere' / 'own.gin').write_text("include 'deep/last.gin'\ninclude 'lost.gin'\n")
  with pytest.raises(errors.InputError, match='lost.gin'):
    gin_config.parse_gin(['elsewhere/own.gin'], [])
  (tmp_path / 'elsewhere' / 'own.gin').write_text("include 'deep/last.gin'\n")
  gin_config.parse_gin(['elsewhere/own.gin'], [])
  assert macro('length') == 7


def test_existing_relative_data_paths_become_absolute(tmp_path, monkeypatch):
  import trax_hourglass  # Registers with gin.  pylint: disable=unused-import, g-import-not-at-top
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'texts').mkdir()
  gin_config.parse_gin([], ["ByteCorpus.path = 'texts'", "data = 'texts'", 'ImageFolder.path = %data',
                            "Cifar10.path = 'not there'", "here/Cifar10.path = '~/x'"])
  assert [gin.query_parameter(name) for name in ('ByteCorpus.path', 'ImageFolder.path', 'Cifar10.path',
                                                 'here/Cifar10.path')] == [str(tmp_path / 'texts')] * 2 + [
                                                     'not there', '~/x']


@pytest.mark.parametrize('closed', ['2>&-', '>&-', '<&-', '>&- 2>&-', '<&- >&- 2>&-'])
def test_commands_run_with_closed_standard_streams(tmp_path, closed):
  code = textwrap.dedent(f"""
      import os, sys
      from trax_hourglass.cli import command_line
      with command_line.running(command_line.parser('train', '').parse_args(['--no_compilation_cache'])):
        with open({str(tmp_path / 'file')!r}, 'w') as f:
          print('for the terminal', file=sys.stderr, flush=True)
          print('for the terminal', flush=True)
          os.write(2, b'for the terminal')
          f.write(str(f.fileno() > 2))""")
  shell = f'{shlex.quote(sys.executable)} -c {shlex.quote(code)} {closed}'
  assert subprocess.run(['bash', '-c', shell], env=processes.environment(), capture_output=True).returncode == 0
  assert (tmp_path / 'file').read_text() == 'True'
