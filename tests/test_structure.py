"""Tests the package structure: allowed imports, no cycles, limits on files and lines."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'trax_hourglass'
NAME = PACKAGE.name

# What each package may import, itself aside; a door's name stands for its module.
BELOW = {
    'runtime': (), 'ops': ('runtime',), 'data': ('runtime',), 'layers': ('ops', 'runtime'),
    'models': ('layers', 'ops', 'runtime'), 'inference': ('models', 'layers', 'ops', 'data', 'runtime')}
BELOW['training'] = ('inference', *BELOW['inference'])
BELOW['comparison'] = ('training', *BELOW['training'])
BELOW['planning'] = ('training', *BELOW['training'])
BELOW['cli'] = ('training', 'inference', 'data', 'runtime')
BELOW['registry'] = ('comparison', *BELOW['comparison'])
# A door calls what it is there for, and prints what that comes to.
BELOW |= {
    'train': ('registry', 'cli', 'planning', 'runtime'),
    'evaluate': ('registry', 'cli', 'training', 'runtime'),
    'generate': ('registry', 'cli', 'runtime'), 'compare': ('registry', 'cli', 'comparison', 'runtime'),
    'export': ('registry', 'cli', 'training', 'models', 'runtime'),
    'plan': ('registry', 'cli', 'planning', 'runtime'),
    '__main__': ('train', 'evaluate', 'generate', 'compare', 'export', 'plan'), '__init__': ('registry', 'runtime')}
# They import by names that they look up: public names, modules that have moved, and parts of Trax.
LOOKED_UP = '__init__.py', 'runtime/moved_modules.py', 'runtime/deferred_imports.py'


def modules():
  """Returns {path below the package: source} of all its files."""
  return {str(path.relative_to(PACKAGE)): path.read_text(encoding='utf-8') for path in sorted(PACKAGE.rglob('*.py'))}


def dotted(path):
  """Returns the module's name, that of a package for its __init__.py."""
  return '.'.join((NAME, *pathlib.PurePath(path).with_suffix('').parts)).removesuffix('.__init__')


def imports(path, source):
  """Yields the names that a file imports, at its top or nested, relative names as absolute ones, '?' for a computed
  one.
  """
  package = dotted(path).split('.') if path.endswith('__init__.py') else dotted(path).split('.')[:-1]
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      above = package[:len(package) - node.level + 1] if node.level else []
      module = '.'.join([*above, *([node.module] if node.module else [])])
      yield from (f'{module}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition('.')[2] in ('import_module', '__import__'):
      argument = node.args[0] if node.args else None
      yield argument.value if isinstance(argument, ast.Constant) else '?'


def wrong(path, source):
  """Returns the imports that the table does not allow."""
  room = pathlib.PurePath(path).parts[0].removesuffix('.py')
  found = []
  for name in imports(path, source):
    first, _, rest = name.partition('.')
    other = rest.split('.')[0]
    if name == '?' and path not in LOOKED_UP or first == NAME and other and other != room and other not in BELOW[room]:
      found.append(name)
    elif first == NAME and not other:
      found.append(name)  # The public face imports all of the house.
  return found


def test_each_file_imports_only_lower_packages():
  found = {path: wrong(path, source) for path, source in modules().items()}
  assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize('path, planted', [
    ('ops/dense.py', 'def f():\n  from trax_hourglass.layers import core\n'),
    ('layers/core.py', 'from ..models import hourglass\n'), ('layers/core.py', 'from .. import registry\n'),
    ('data/corpus.py', "import importlib\nx = importlib.import_module('trax_hourglass.inference.scoring')\n"),
    ('data/corpus.py', "x = __import__('trax_hourglass.' + 'ops')\n"), ('runtime/errors.py', 'import trax_hourglass\n'),
    ('inference/scoring.py', 'if False:\n  import trax_hourglass.training.fit as fit\n'),
    ('evaluate.py', 'def f():\n  from trax_hourglass import comparison\n'),
])
def test_an_upward_import_is_detected(path, planted):
  assert len(wrong(path, planted)) == 1


def test_imports_have_no_cycle():
  known = {dotted(path): path for path in modules()}

  def module_of(name):
    return name if name in known else name.rpartition('.')[0]

  graph = {dotted(path): {module_of(name) for name in imports(path, source)} & known.keys() - {dotted(path), NAME}
           for path, source in modules().items()}
  done, open_ = set(), []

  def visit(module):
    assert module not in open_, ' -> '.join([*open_[open_.index(module):], module])
    if module not in done:
      open_.append(module)
      for other in sorted(graph[module]):
        visit(other)
      open_.pop()
      done.add(module)

  for module in graph:
    visit(module)
  assert done == set(known)


def test_files_and_lines_fit():
  for path, source in modules().items():
    lines = source.splitlines()
    is_door = '/' not in path and path not in ('__init__.py', 'registry.py')
    assert len(lines) <= (60 if is_door else 350), f'{path} has {len(lines)} lines'
  for path in (path for folder in (PACKAGE, ROOT / 'tests', ROOT / 'benchmarks') for path in folder.rglob('*.py')):
    lines = path.read_text(encoding='utf-8').splitlines()
    assert len(lines) <= 350 and not [number for number, line in enumerate(lines, 1) if len(line) > 120], path
  assert len([path for path in PACKAGE.iterdir() if path.name != '__pycache__']) <= 20


def test_docstrings_begin_with_a_verb():
  for path, source in modules().items():
    for node in ast.walk(ast.parse(source)):
      if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
        first, *_ = (ast.get_docstring(node) or '-').split()
        assert first not in ('What', 'Whether', 'How', 'Where', 'Which'), f'{path}: {ast.get_docstring(node)}'


def test_test_modules_mirror_packages_and_import_no_other_test():
  tests = ROOT / 'tests'
  for path in tests.rglob('*.py'):
    names = [name.split('.') for name in imports(str(path.relative_to(tests)), path.read_text(encoding='utf-8'))]
    assert not [name for name in names if name[0] == 'tests' and any(part.startswith('test_') for part in name)], path
  folders = {path.parent.name for path in tests.rglob('test_*.py')} - {'tests'}
  assert folders == {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').exists()}
