"""Tests README, docs and notebooks: links, paths, flags and gin names exist, sentences are short, commands run."""

import json
import pathlib
import re
import shlex

import gin
import pytest

from tests.helpers import processes
from tests.helpers import runs
from trax_hourglass import compare
from trax_hourglass import evaluate
from trax_hourglass import export
from trax_hourglass import generate
from trax_hourglass import plan
from trax_hourglass import registry  # Registers with gin.  pylint: disable=unused-import
from trax_hourglass import train

ROOT = processes.ROOT
PAGES = [ROOT / 'README.md', ROOT / 'benchmarks' / 'README.md', *sorted((ROOT / 'docs').glob('*.md')),
         *sorted((ROOT / 'trax_hourglass' / 'pretrained').glob('*.md'))]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
COMMANDS = {'train': train, 'evaluate': evaluate, 'generate': generate, 'compare': compare, 'export': export,
            'plan': plan}
# Flags of other programs, which the pages name too.
OTHERS = {'--logdir'}


def text_of(page):
  """Returns a page's text; for a notebook, that of all its cells."""
  text = page.read_text(encoding='utf-8')
  return text if page.suffix == '.md' else '\n'.join(''.join(cell['source']) for cell in json.loads(text)['cells'])


def anchors(page):
  """Returns the anchors of a page's headings, as GitHub makes them."""
  headings = re.findall(r'^#+ (.*)$', text_of(page), re.MULTILINE)
  return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def prose(page):
  """Yields the sentences of a page, without code, tables and headings."""
  text = re.sub(r'^```.*?^```', '', text_of(page), flags=re.MULTILINE | re.DOTALL)
  blocks = re.split(r'\n\s*\n|\n(?=\s*(?:[-*] |\d+\. ))', text)
  for block in blocks:
    if block.strip() and not re.match(r'    |\s*[|#<]', block.lstrip('\n')):
      block = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', ' '.join(block.split()))
      yield from re.split(r'(?<=[.:;?])\s+(?=[A-Z`\d*@])', re.sub(r'^[-*] ', '', block))


@pytest.mark.parametrize('page', [*PAGES, *NOTEBOOKS], ids=lambda page: page.name)
def test_links_and_paths_exist(page):
  text = text_of(page)
  for link in re.findall(r'(?:\]\(|src=")([^)"]+)[)"]', text):
    path, _, anchor = link.partition('#')
    if not link.startswith('http'):
      there = (page.parent / path).resolve() if path else page
      assert there.exists(), link
      assert not anchor or anchor in anchors(there), link
  for path in re.findall(r'(?<![\w/.*])((?:gin|docs|tests|benchmarks|notebooks|trax_hourglass)/[\w./-]*)', text):
    assert (ROOT / path.rstrip('.')).exists() or f'{path}*' in text and list(ROOT.glob(f'{path}*')), path
  for module in re.findall(r'python -m trax_hourglass\.(\w+)', text):
    assert module in COMMANDS, module


@pytest.mark.parametrize('page', [*PAGES, *NOTEBOOKS], ids=lambda page: page.name)
def test_flags_and_gin_names_exist(page):
  text = text_of(page)
  sources = '\n'.join(path.read_text(encoding='utf-8') for folder in ('trax_hourglass', 'benchmarks', 'tests')
                      for path in (ROOT / folder).rglob('*.py') if path != pathlib.Path(__file__))
  for flag in set(re.findall(r'(?<![\w-])--[a-z]\w+', text)) - OTHERS:
    assert flag.startswith('--xla_') or f"'{flag}'" in sources, flag
  own = set(re.findall(r'^ *def ([A-Z]\w+)', '\n'.join(map(text_of, PAGES)), re.MULTILINE))
  for name in set(re.findall(r'@((?:trax\w*\.\w+\.)?[A-Z]\w+)', text)) - own:
    assert is_configurable(name), name
  for name, parameter in re.findall(r'(?<![\w./])(fit|compare|[A-Z]\w+)\.([a-z]\w+)(?!\w*[./])', text):
    if parameter not in ('ipynb', 'py') and name not in own and is_configurable(name):
      gin.bind_parameter(f'{name}.{parameter}', None)  # Raises where the function has no such parameter.


def is_configurable(name):
  """Returns True if gin knows a function of this name."""
  try:
    return bool(gin.get_configurable(name))
  except ValueError:
    return False


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short(page):
  long = [sentence for sentence in prose(page) if len(sentence.split()) > 25]
  assert not long


def test_the_readme_is_short():
  lines = text_of(PAGES[0]).splitlines()
  assert len(lines) <= 200 and max(map(len, lines)) <= 120


def readme_commands():
  """Returns the README's commands of ours, [(command, arguments)]."""
  text = text_of(PAGES[0]).replace('\\\n', ' ')
  found = [shlex.split(line) for line in re.findall(r'^    python -m (trax_hourglass\..*)$', text, re.MULTILINE)]
  return [(name.removeprefix('trax_hourglass.'), arguments) for name, *arguments in found]


# What makes each small: later flags win. A comparison trains its own row only.
SMALL = {'train': ['--config_file', runs.TINY, '--config', 'n_steps = 1', '--config', 'warmup_steps = 1', '--config',
                   "Hourglass.shortening = @ShortenByAverage", '--config', 'Hourglass.upsampling = @UpsampleByRepeat',
                   '--output_dir', '{tmp}/run'],
         'evaluate': ['--max_tokens', '20'], 'generate': ['--length', '5'], 'plan': [],
         'compare': ['--config', 'compare.seconds = None', '--config', 'compare.steps = 1', '--config',
                     'compare.n_evaluations = 1', '--config', "compare.only = ('{row}',)", '--config', 'batch_size = 2',
                     '--config', 'length = 12', '--config', 'Hourglass.d_model = 8', '--config',
                     'Hourglass.n_heads = 2', '--config', 'Hourglass.d_ff = 8', '--config', 'fit.eval_batches = 1',
                     '--config', 'compare.max_tokens = 50', '--config', 'compare.measured_steps = 1',
                     '--config', 'fit.max_valid_tokens = 50']}


@pytest.mark.parametrize('number', range(len(readme_commands())))
def test_the_commands_of_the_readme_run(number, tiny_run, tmp_path, monkeypatch, capsys):
  """Runs commands as printed, but on small data and for one step; comparisons find the README's own module."""
  name, arguments = readme_commands()[number]
  text = tmp_path / 'text'
  text.write_bytes(bytes(range(97, 122)) * 40)
  directory = tmp_path / 'run' if name in ('train', 'compare') else tiny_run[0]
  given = {'DIR': str(directory), 'docs/images/hourglass.svg': str(tmp_path / 'hourglass.svg')}
  arguments = [given.get(argument, argument).replace('FILE_OR_FOLDER', str(text)).replace("'FILE'", repr(str(text)))
               for argument in arguments]
  if name == 'train':  # The corpora of the paper are another test's.
    arguments += ['--config', 'fit.corpus = @ByteCorpus()', '--config', f"ByteCorpus.path = '{text}'"]
  if name == 'compare':
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    is_own = arguments[1] == 'mine.gin'
    for file, content in zip(('my_project.py', 'mine.gin'), own_files()):
      (tmp_path / file).write_text(content)
    arguments[1] = arguments[1] if is_own else str(ROOT / arguments[1])
  row = 'maximum' if 'mine.gin' in arguments else '4@1'
  arguments += [flag.replace('{tmp}', str(tmp_path)).replace('{row}', row) for flag in SMALL[name]]
  gin.clear_config()
  gin.enter_interactive_mode()  # Another test may have registered the README's function already.
  try:
    COMMANDS[name].main(arguments)
  finally:
    gin.exit_interactive_mode()
  assert capsys.readouterr().out


def test_the_corpus_and_schedule_of_the_docs_train(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  module, config = own_files(ROOT / 'docs' / 'extending.md', '## How do I add a corpus or a schedule?')
  (tmp_path / 'my_data.py').write_text(module)
  (tmp_path / 'digits.gin').write_text(config.partition('fit.')[0] + f"include '{runs.TINY}'\nfit." +
                                       config.partition('fit.')[2])
  gin.clear_config()
  train.main(['--config_file', 'digits.gin', '--output_dir', str(tmp_path / 'run')])
  assert '4 steps' in capsys.readouterr().out


def own_files(page=PAGES[0], heading='## Your own shortening'):
  """Returns the module and the gin file that a section of a page shows first."""
  section = text_of(page).partition(heading)[2].partition('\n## ')[0]
  blocks = re.findall(r'(?:^(?:    .*)?\n)+', section, re.MULTILINE)
  return [re.sub(r'^    ', '', block, flags=re.MULTILINE) for block in blocks if block.strip()][:2]
