"""What surrounds a command: readers that leave, 64 bits, byte order marks, the home folder."""

import json
import textwrap

import gin

from tests.helpers import processes
from trax_hourglass.runtime import gin_config


def test_a_reader_that_leaves_is_no_error():
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


def test_gin_files_may_begin_with_a_byte_order_mark_and_lie_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'own.gin').write_text("include '~/more.gin'\nn_steps = 5\n", encoding='utf-8-sig')
  (tmp_path / 'more.gin').write_text("include 'quickstart.gin'\nlength = 7\n", encoding='utf-8-sig')
  gin_config.parse_gin(['~/own.gin'], [])
  assert [gin.query_parameter(f'{name}/macro.value') for name in ('n_steps', 'length', 'batch_size')] == [5, 7, 8]
