"""Tests the compilation cache: one process fills the cache, the next one reads it, and each CPU type has its folder."""

import json
import pathlib

from tests.helpers import processes
from trax_hourglass.runtime import compilation_cache


def start(**variables):
  return processes.Command('tests.helpers.compiling', **{'JAX_COMPILATION_CACHE_DIR': '', **variables})


def result(process):
  """Returns the parsed JSON output of a process, and its stderr."""
  stdout, stderr = process.communicate()
  assert process.returncode == 0, stderr
  return json.loads(stdout), stderr


def test_the_second_process_compiles_nothing(tmp_path):
  first, said = result(start(XDG_CACHE_HOME=str(tmp_path)))
  assert said == '' and first['misses'] > 0 and first['hits'] == 0 and first['most_bytes'] == 2 << 30
  assert pathlib.Path(first['folder']).is_relative_to(tmp_path / 'trax_hourglass' / 'compiled')
  second, said = result(start(XDG_CACHE_HOME=str(tmp_path)))
  assert said == '' and second == {**first, 'hits': first['misses'], 'misses': 0}


def test_two_processes_can_fill_the_cache_at_once(tmp_path):
  found = [result(process) for process in [start(XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]]
  assert [said for _, said in found] == ['', '']
  assert result(start(XDG_CACHE_HOME=str(tmp_path)))[0]['misses'] == 0


def test_an_unwritable_cache_folder_is_reported_once(tmp_path):
  (tmp_path / 'file').write_text('')
  found, said = result(start(XDG_CACHE_HOME=str(tmp_path / 'file')))
  assert found['folder'] is None and said.count('\n') == 1
  assert said.startswith('compiled programs are not cached: ') and '--no_compilation_cache' in said


def test_jax_compilation_cache_dir_takes_precedence(tmp_path):
  found, _ = result(start(XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'own')))
  assert found['folder'] is None and not (tmp_path / 'trax_hourglass').exists()  # JAX reads the variable at import.


def test_cpu_types_get_distinct_cache_names(monkeypatch):
  texts = {'a': 'flags : sse avx2\n', 'b': 'flags : sse\n', 'arm': 'Features : fp asimd\n'}
  names = set()
  for text in texts.values():
    monkeypatch.setattr(pathlib.Path, 'read_text', lambda *_, text=text, **__: text)
    names.add(compilation_cache.processor())
  assert len(names) == 3
