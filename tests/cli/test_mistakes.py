"""Tests user errors: bad settings give one line and exit code 2, errors in user code show their source lines."""

import sys
import traceback

import gin
import pytest

from tests.helpers import doors
from tests.helpers import runs

HEADER = """
import gin
import jax.numpy as jnp
import trax_hourglass as th
from trax import layers as tl
"""
SHORTENING = '\ndef Mine(spec, shorten_factor, tokens_per_vector):\n  return {}\n'
CORPUS = """
class Mine(th.ByteCorpus):
  def __init__(self):
    {}
    super().__init__(__file__)
  def split(self, name):
    {}
    return super().split(name)
"""
REGISTERED = "\ngin.external_configurable(Mine, module='my_project')\n"
AVERAGE = "tl.Fn('Average', lambda x: x.reshape(x.shape[0], -1, shorten_factor, x.shape[2]).mean(2))"


@pytest.fixture
def train(tmp_path, monkeypatch):
  """A function that runs the training command with a module's source text and bindings, and returns the exit code."""
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(gin.config, '_INTERACTIVE_MODE', True)  # Each module registers the same name again.

  def run(text, *bindings):
    (tmp_path / 'mine.py').write_text(text)
    (tmp_path / 'mine.gin').write_text('import mine\n' * bool(text) + f"include '{runs.TINY}'\n")
    monkeypatch.delitem(sys.modules, 'mine', raising=False)
    return doors.main(monkeypatch, '--config_file', tmp_path / 'mine.gin', '--output_dir', tmp_path / 'run',
                      *(flag for binding in bindings for flag in ('--config', binding)))
  return run


OWN_SHORTENING = *runs.HOURGLASS, 'Hourglass.shortening = @my_project.Mine'


@pytest.mark.parametrize('text, bindings, message', [
    ('', ['Hourglass.hierarchy = 2@1 1@3 2@1'], "strings need quotes: set Hourglass.hierarchy = '2@1 1@3 2@1'"),
    ('', ["ByteCorpus.path = 'text.txt"], 'the quotes do not match'),
    ('', ['n_steps = 1', 'batch_size = """'], """--config 'batch_size = \"\"\"': """),
    ('', ['Hourglass.d_model = (1, 2', 'length = 5'], "--config 'Hourglass.d_model = (1, 2': "),
    ('', ['ByteCorpus.path = @ByteCorpus()'], 'ByteCorpus.path refers to itself: bind something else to it'),
    ('', ['a = %b', 'b = (1, %a)'], 'a refers to itself'),
    ('', ['WarmupCosine.peak = @CosineEnd()', 'CosineEnd.before = @WarmupCosine()'], 'refers to itself'),
    ('', ['Hourglass.d_modl = 3'], "'d_modl'; did you mean 'd_model'?"),
    ('', ['Hourglas.d_model = 3'], "'Hourglas'; did you mean 'Hourglass'?"),
    ('', ['Hourglass.shortening = @ShortenByAverge'], "did you mean 'ShortenByAverage'"),
    ('', ['batch_size = %bach_size'], 'bach_size'),
    ('', ["hierarchy = '8@1'"], "reads the macro 'hierarchy'; did you mean 'Hourglass.hierarchy'?"),
    ('', ['n_step = 9'], "reads the macro 'n_step'; did you mean 'n_steps'?"),
    ('', ['length = 7\nxyz = 1'], "reads the macro 'xyz': leave it out"),
    ('', ["ByteCorpus.path = '/no/such/file'"], "'/no/such/file'"),
    (HEADER + SHORTENING.format("tl.Fn('Wide', lambda x: jnp.tile(x[:, ::3], 3))") + REGISTERED, OWN_SHORTENING,
     'Hourglass.shortening = @Mine returned (2, 5, 42), expected (2, 5, 14)'),
    (HEADER + SHORTENING.format('None') + REGISTERED, OWN_SHORTENING,
     'Hourglass.shortening = @Mine returned None, expected a Trax layer'),
    (HEADER + SHORTENING.format("tl.Fn('Two', lambda x: (x, x), n_out=2)") + REGISTERED, OWN_SHORTENING,
     'returned a layer of 1 inputs and 2 outputs, expected 1 and 1'),
    (HEADER + SHORTENING.format("tl.Fn('Two', lambda x: (x, x))") + REGISTERED, OWN_SHORTENING,
     'Hourglass.shortening = @Mine returned 2 arrays, expected 1'),
    ('', ['import no_such_module'], "No module named 'no_such_module'"),
])
def test_user_errors_are_one_line_with_exit_code_2(text, bindings, message, train, tmp_path, capsys):
  assert train(text, *bindings) == 2
  out, err = capsys.readouterr()
  assert out == '' and len(err.splitlines()) == 1 and err.startswith('train: ') and message in err
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('text, bindings, error', [
    ('x = 3\nx.append(1)\n', [], AttributeError),
    ('def f(:\n', [], SyntaxError),
    (HEADER + SHORTENING.format("int('x')") + REGISTERED, OWN_SHORTENING, ValueError),
    (HEADER + SHORTENING.format("tl.Fn('E', lambda x: jnp.einsum('bld,kl->bkd', x, jnp.ones((3, 5))))") + REGISTERED,
     OWN_SHORTENING, ValueError),
    (HEADER + SHORTENING.format("tl.Fn('E', lambda x: x.no_such_method())") + REGISTERED, OWN_SHORTENING,
     AttributeError),
    (HEADER + CORPUS.format("int('x')", 'pass') + REGISTERED, ['fit.corpus = @Mine()'], ValueError),
    (HEADER + CORPUS.format('pass', "{}['x']") + REGISTERED, ['fit.corpus = @Mine()'], KeyError),
    (HEADER + CORPUS.format('pass', "open('/no/such/file')") + REGISTERED, ['fit.corpus = @Mine()'],
     FileNotFoundError),
    (HEADER + 'def Mine():\n  return lambda step: int("x")\n' + REGISTERED, ['fit.schedule = @Mine()'], ValueError),
    (HEADER + 'def Mine(*args):\n  raise TypeError("no windows")\n' + REGISTERED, ['fit.windows = @Mine'], TypeError),
    (HEADER + 'class Mine(th.RandomWindows):\n  def __next__(self):\n    return 1 / 0\n' + REGISTERED,
     ['fit.windows = @Mine'], ZeroDivisionError),
])
def test_errors_in_user_code_show_its_source_lines(text, bindings, error, train, tmp_path, capsys):
  with pytest.raises(Exception) as raised:
    train(text, *bindings)
  shown = ''.join(traceback.format_exception(raised.value))
  assert error.__name__ in shown and 'mine.py' in shown
  if error is not SyntaxError:  # Python itself reports the place of a SyntaxError.
    err = capsys.readouterr().err
    assert f'train: {error.__name__} in your code: ' in err and f'File "{tmp_path}/mine.py", line ' in err
