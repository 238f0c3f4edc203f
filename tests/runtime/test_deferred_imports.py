"""Tests deferred imports: Trax loads without TensorFlow and without messages, and imports TensorFlow at first use."""

import textwrap

from tests.helpers import processes


def run(code):
  """Runs Python code in a fresh interpreter and returns its stdout and stderr."""
  result = processes.python('-c', textwrap.dedent(code))
  assert result.returncode == 0, result.stderr
  return result.stdout, result.stderr


def test_commands_import_silently_without_tensorflow():
  assert run("""
      import sys
      from trax_hourglass import compare, evaluate, export, generate, train
      heavy = 'tensorflow', 'tensorflow_datasets', 'gym', 'matplotlib', 'scipy.stats', 'orbax.checkpoint'
      print([name for name in heavy if name in sys.modules])""") == ('[]\n', '')


def test_only_syntax_warnings_of_trax_are_silenced():
  assert run("""
      import pathlib, trax_hourglass, trax.layers.combinators as combinators, trax.supervised.training as training
      for module in combinators, training:
        compile(pathlib.Path(module.__file__).read_text(), module.__file__, 'exec')
      compile('a = 1 is ()', '/somewhere/of_a_user.py', 'exec')""")[1].count('SyntaxWarning') == 1


def test_export_and_generate_run_without_tensorflow(tiny_run, tmp_path):
  assert run(f"""
      import sys
      from trax_hourglass import export, generate
      export.main(['--output_dir', {str(tiny_run[0])!r}, '--to', {str(tmp_path / 'weights.pkl.gz')!r}])
      generate.main(['--output_dir', {str(tiny_run[0])!r}, '--length', '3', '--json'])
      assert not any(name.startswith('tensorflow') and '.' not in name for name in sys.modules)""")[0].count('\n') == 2


def test_deferred_modules_are_imported_at_first_use():
  assert run("""
      import trax_hourglass
      import sys, numpy as np, trax
      from trax import fastmath, layers, shapes
      assert shapes.ShapeDtype((2, 3), np.int32).shape == (2, 3) and 'tensorflow' not in sys.modules
      with fastmath.use_backend('tensorflow-numpy'):
        assert 'tensorflow' in str(type(fastmath.numpy.ones(3) + 1)) and 'vmap' in fastmath.backend()
      import tensorflow as tf
      assert shapes.ShapeDtype(tf.TensorShape([2, None]), tf.float32).shape == (2, None)
      assert trax.rl.A2C.__name__ == 'A2C' and trax.supervised.callbacks.serialization_utils.Serialize
      assert issubclass(trax.AsKeras, tf.keras.layers.Layer) and trax.trax2keras.AsKeras is trax.AsKeras
      assert trax.jaxboard.SummaryWriter and trax.supervised.training.jaxboard.SummaryWriter
      try:
        trax.no_such_name
      except AttributeError as error:
        print(error)""") == ("module 'trax' has no attribute 'no_such_name'\n", '')


def test_no_stand_ins_if_tensorflow_is_already_imported():
  assert run("""
      import tensorflow
      import trax_hourglass
      import trax
      assert isinstance(trax.AsKeras, type) and trax.layers.base.tf is tensorflow
      print('all real')""")[0] == 'all real\n'


def test_quiet_import_drops_only_known_messages(tmp_path):
  (tmp_path / 'noisy.py').write_text(
      "import os\nos.write(2, b'I0000 known\\nsomething new\\nGym has been unmaintained since 2022\\n')")
  assert run(f"""
      import sys
      from trax_hourglass.runtime import deferred_imports
      sys.path.insert(0, {str(tmp_path)!r})
      deferred_imports.import_quietly('noisy')""") == ('', 'something new\n')
