"""Fuzzes the command lines: any input ends in exit code 0 or 2, one clear line and no partial run directory."""

import contextlib
import gzip
import io
import os
import pathlib
import pickle
import re
import shutil
import tempfile

import hypothesis
from hypothesis import strategies as st
import numpy as np

from tests.helpers import runs
from tests.helpers import sampling
from trax_hourglass import evaluate
from trax_hourglass import export
from trax_hourglass import generate
from trax_hourglass.models import trax_checkpoint
from trax_hourglass import train
from trax_hourglass.training import checkpoints

_PROGRESS = re.compile(r'^compiling \.\.\.$|^step \d|: \d+ files, |: writing /')
EXAMPLES = sampling.examples(50, 5000)

# Mostly invalid values; the valid ones are small enough to train quickly.
NUMBERS = st.sampled_from([
    '0', '-1', '1', '2', '3', '7', '-0.5', '0.3', '1e-9', '1e400', 'True', 'None', '100000000000',
    '12345678901234567890'
])
VALUES = st.one_of(
    NUMBERS,
    st.sampled_from([
        "'stop'", "'skip'", "'bfloat16'", "'blocks'", "'tokens'", "''", '()', '(1, 2)', '[]', '{}', "b'x'",
        '@ByteCorpus()', '@ShortenByLinear', '@UpsampleByNothing', '@Epochs', '@RandomWindows()', '@NoSuchThing',
        '%n_steps', '%no_such_macro', 'no quotes', '1 +', "'unclosed", '@', '%', '"""'
    ]))
NAMES = st.sampled_from([
    'n_steps', 'batch_size', 'length', 'warmup_steps', 'peak_learning_rate', 'fit.seed', 'fit.eval_every',
    'fit.eval_batches', 'fit.checkpoint_every', 'fit.keep_last', 'fit.keep_every', 'fit.max_valid_tokens', 'fit.dtype',
    'fit.accumulate', 'fit.loss_chunk', 'fit.shard_weights', 'fit.n_devices', 'fit.on_non_finite', 'fit.windows',
    'fit.corpus', 'fit.schedule', 'fit.optimizer', 'fit.model', 'Hourglass.vocab_size', 'Hourglass.hierarchy',
    'Hourglass.d_model', 'Hourglass.d_ff', 'Hourglass.n_heads', 'Hourglass.dropout', 'Hourglass.recompute',
    'Hourglass.shortening', 'Hourglass.upsampling', 'Hourglass.vanilla_attention', 'Hourglass.mode',
    'UpsampleByAttention.distances_in', 'ShortenByAttention.query', 'Hourglass.ff_activation', 'Hourglass.max_length',
    'Hourglass.dropout_shared_axes', 'trax.optimizers.Adam.eps', 'trax.optimizers.Adam.b1',
    'trax.optimizers.Adam.clip_grad_norm', 'fit.callbacks', 'fit.keep_best', 'WarmupCosine.n_steps', 'ByteCorpus.path',
    'WarmupCosine.peak', 'fit.stop_after', 'fit.init_from', 'fit.init_partial', 'ByteCorpus.splits',
    'fit.nothing', 'Nothing.x', 'nothing', '', 'a b', '1.2', 'fit.output_dir', '.', 'fit.'
])
RIGHT = st.sampled_from([
    'fit.seed = 3', "fit.dtype = 'bfloat16'", 'fit.accumulate = 2', "fit.on_non_finite = 'skip'", 'batch_size = 3',
    'length = 7', 'fit.keep_every = 1', 'Hourglass.dropout = 0.3', 'fit.windows = @Epochs', 'fit.loss_chunk = 5',
    'fit.shard_weights = True', 'Hourglass.vocab_size = 300', 'fit.eval_batches = 1', 'n_steps = 2'
])
PARTS = st.one_of(
    st.sampled_from(
        ['1@1', '0@1', '1@3', '1@2', '2@6', '1@0', '1@-1', '-1@1', '1', '@', '1@', '@1', '1@x', '1.5@1', '']),
    st.builds('{}@{}'.format, st.integers(0, 2), st.integers(1, 7)))
HIERARCHIES = st.lists(PARTS, max_size=5).map(lambda parts: f'Hourglass.hierarchy = {" ".join(parts)!r}')
BINDINGS = st.builds('{} = {}'.format, NAMES, VALUES)
ENDS = st.builds('CosineEnd.{} = {}'.format, st.sampled_from(['before', 'first_step', 'n_steps']),
                 st.one_of(VALUES, st.just('@WarmupCosine()')))
CONTENTS = st.one_of(st.binary(max_size=70), st.sampled_from([b'', b'a', b'ab' * 300]))
FLAGS = st.sampled_from([
    '--json', '--no_such_flag', '--n_hosts=2', '--host=0', '--cluster=1', '--coordinator=here', 'word',
    '--config_file=no_such_file.gin', '--config_file=.', '--config', '--n_hosts=x'
])
WORDS = st.sampled_from(['', 'a', 'train', 'test', 'paper', 'best', '1', '7', '0x1', '-', 'é', '/',
                         '{folder}/no.pkl.gz', '{run}/config.gin',
                         '{folder}/no.safetensors', '{folder}/new.safetensors'])
# For each command: the flags that take numbers, those that take words, and those that take no value.
OTHER_COMMANDS = {
    evaluate: (['context', 'stride', 'max_tokens', 'batch_size'],
               ['split', 'protocol', 'checkpoint', 'pretrained', 'config'], ['json']),
    generate: (['length', 'temperature', 'top_k', 'top_p', 'seed', 'count', 'stop', 'window'],
               ['prompt', 'prompt_file', 'checkpoint', 'pretrained', 'dtype', 'image', 'complete', 'config'], ['json']),
    export: ([], ['to', 'checkpoint', 'dtype', 'config'], ['authors']),
}
# The fixed flags of each command, valid except for the drawn ones.
USUAL = {evaluate: ['--max_tokens=20'], generate: ['--length=3'], export: ['--to={folder}/model.pkl.gz']}


@st.composite
def commands(draw):
  """Draws (command, arguments, contents of a corpus or None, whether the directory holds a finished run)."""
  kind = draw(
      st.sampled_from(['bindings'] * 14 + ['hierarchy'] * 4 + ['corpus'] * 3 + ['flags'] * 3 + ['going on'] * 5 +
                      ['other'] * 6 + ['right', 'schedule']))
  bindings, contents, flags = [], None, []
  if kind == 'other':
    command = draw(st.sampled_from(list(OTHER_COMMANDS)))
    numbers, words, alone = OTHER_COMMANDS[command]
    flags = draw(st.lists(st.one_of(
        *([st.builds('--{}={}'.format, st.sampled_from(numbers), NUMBERS)] if numbers else []),
        st.builds('--{}={}'.format, st.sampled_from(words), WORDS), st.sampled_from(alone).map('--{}'.format)),
                          min_size=1, max_size=2))
    return command, ['--output_dir={run}', *USUAL[command], *flags], None, True
  if kind in ('bindings', 'going on'):
    bindings = draw(st.lists(BINDINGS, min_size=1, max_size=3 if kind == 'bindings' else 1))
  elif kind == 'right':
    bindings = draw(st.lists(RIGHT, min_size=1, max_size=2))
  elif kind == 'hierarchy':
    bindings = [draw(HIERARCHIES)]
  elif kind == 'corpus':
    contents = draw(CONTENTS)
    bindings = ["ByteCorpus.path = '{corpus}'"]
  elif kind == 'schedule':
    bindings = ['fit.schedule = @CosineEnd()', *draw(st.lists(ENDS, max_size=3))]
  else:
    flags = [draw(FLAGS)]
  bindings = [flag for binding in bindings for flag in ('--config', binding)]
  return train, ['--output_dir={run}', *BASE, *flags, *bindings], contents, kind == 'going on'


# A small corpus, which is scored quickly.
BASE = ['--config_file', runs.TINY]
for one in ('n_steps = 1', 'warmup_steps = 1', 'fit.max_valid_tokens = 20',
            "ByteCorpus.path = '{small}'"):
  BASE += ['--config', one]


def call(command, arguments):
  """Returns the exit code of a command, 0 if the command returns normally."""
  try:
    command.main(arguments)
  except SystemExit as ended:
    return ended.code or 0
  return 0


def words_of(arguments):
  """Returns the words by which a message may name arguments: functions, parameters, flags and values."""
  words = []
  for argument in arguments:
    if argument not in ('--config', '--json'):
      value = argument.partition('=')[2].strip().strip('\'"')
      words += [argument.strip(), value, *re.findall(r'[A-Za-z_]\w*', argument)]
      with contextlib.suppress(ValueError):
        words.append(f'{float(value):.3g}')
  return [word for word in words if word]


def contents_of(run):
  """Returns {path: hash} of the files that a failed command must leave unchanged."""
  return {name: digest for name, digest in runs.listing(run).items() if name != 'run.lock'}


def test_command_lines_never_end_in_a_traceback(tmp_path, capfd, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  small, finished = tmp_path / 'small', tmp_path / 'finished'
  small.write_bytes(bytes(range(32, 127)) * 40)
  places = {'{small}': str(small), '{run}': str(finished), '{folder}': str(tmp_path), '{corpus}': ''}

  def with_places(arguments):
    for name, place in places.items():
      arguments = [argument.replace(name, place) for argument in arguments]
    return arguments

  assert call(train, with_places(['--output_dir={run}', *BASE])) == 0
  original = contents_of(finished)
  codes = {True: [], False: []}  # Exit codes of training, and of the other commands.

  @hypothesis.settings(max_examples=EXAMPLES, suppress_health_check=list(hypothesis.HealthCheck))
  @hypothesis.given(commands())
  def try_one(example):
    command, arguments, contents, on_finished = example
    with tempfile.TemporaryDirectory() as folder:
      run = pathlib.Path(folder) / 'run'
      places.update({'{run}': str(run), '{folder}': folder, '{corpus}': f'{folder}/corpus'})
      if contents is not None:
        pathlib.Path(folder, 'corpus').write_bytes(contents)
      if on_finished:
        shutil.copytree(finished, run)
      capfd.readouterr()
      code = call(command, with_places(arguments))
      out, err = capfd.readouterr()
      assert code in (0, 2), (example, err)
      assert 'Traceback' not in err, (example, err)
      if on_finished and (code or command is not train):
        assert contents_of(run) == original, (example, err)
      if code:
        assert out == '' and err.strip(), (example, out)
        assert on_finished or not run.exists(), (example, os.listdir(run))
        said = err.strip().splitlines()
        began = [line for line in said[:-1] if _PROGRESS.search(line)]  # Progress before a failure.
        assert len(said) == 1 + len(began) or said[0].startswith('usage: '), (example, err)
        words = words_of(with_places(arguments[1 + len(BASE) * (command is train):]))
        # A non-finite loss cannot be traced to an argument.
        assert not words or 'not finite' in said[-1] or any(word in said[-1] for word in words), (example, err)
      else:
        store = checkpoints.Store(run)
        assert store.newest_sound() == max(store.steps()), example
      codes[command is train].append(code)

  try_one()
  for found in codes.values():
    if len(found) > 100:  # Fewer examples may all fail by chance.
      is_both = found.count(0) >= 3 and found.count(2) > len(found) / 4
      assert is_both, f'the examples are all right, or all wrong: {found}'


def malformed(data, original):
  """Returns a corrupted version of a file's bytes."""
  content = bytearray(original)
  kind = data.draw(st.sampled_from(['flip', 'cut', 'insert', 'random', 'global', 'other']))
  if kind == 'flip':
    for _ in range(data.draw(st.integers(1, 4))):
      content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
  elif kind == 'cut':
    del content[data.draw(st.integers(0, len(content) - 1)):]
  elif kind == 'insert':
    at = data.draw(st.integers(0, len(content)))
    content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
  elif kind == 'random':
    content = data.draw(st.binary(max_size=60))
  elif kind == 'global':  # A pickle that names or calls a function.
    content = pickle.dumps(os.system if data.draw(st.booleans()) else Exploding())
  else:
    content = data.draw(st.sampled_from(OTHERS))
  return bytes(content)


class Exploding:
  """Creates a directory when its pickle is loaded by Python's unpickler."""

  def __reduce__(self):
    return os.mkdir, ('exploded',)


def archive():
  """Returns the bytes of an .npz file."""
  file = io.BytesIO()
  np.savez(file, np.ones(2))
  return file.getvalue()


def header(shape, dtype='<f4'):
  """Returns the header of an .npy file with the given shape and dtype."""
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(file, {'descr': dtype, 'fortran_order': False, 'shape': shape})
  return file.getvalue()


OTHERS = [archive(), archive()[:30], header((1 << 62,)), header((1 << 40, 1 << 9)), header((-1,)), header((2,), '|O'),
          header((1,), '<U1') + b'abcd', *map(pickle.dumps, (
              None, [], {'flat_weights': 3, 'step': 'x'}, {'flat_weights': [np.array('x')], 'step': 1.5},
              {'flat_weights': [np.array([None])], 'step': [1]}, {'flat_weights': 'abc', 'step': float('nan')}))]


@hypothesis.settings(max_examples=sampling.examples(150, 1000), suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(st.data())
def test_malformed_trax_files_never_run_code(data):
  """Corrupt Trax files raise an error or yield arrays, and never run code.

  Trax stores the weights within the pickle or beside it. Either the compressed file is corrupted, or its contents.
  """
  arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(4, np.float32)]
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'model.pkl.gz')
    harmed = data.draw(st.sampled_from(['model.pkl.gz', 'model.weights.npy.gz', 'alone']))
    weights = arrays if harmed == 'alone' else 2
    contents = {'model.pkl.gz': pickle.dumps({'flat_weights': weights, 'flat_state': [], 'step': 7})}
    if harmed != 'alone':
      stream = io.BytesIO()
      for array in arrays:
        np.save(stream, array)
      contents['model.weights.npy.gz'] = stream.getvalue()
    harmed = 'model.pkl.gz' if harmed == 'alone' else harmed
    within = data.draw(st.booleans())
    for name, content in contents.items():
      stored = gzip.compress(malformed(data, content) if within and name == harmed else content, 1)
      pathlib.Path(folder, name).write_bytes(malformed(data, stored) if not within and name == harmed else stored)
    for read in trax_checkpoint.read_weights, trax_checkpoint.read_step:
      try:
        found = read(path)
      except ValueError as error:
        assert folder in str(error)
      else:  # A pickle has no checksums, so only the types can be checked.
        assert found is None or isinstance(found, int) or all(array.dtype.kind in 'biufV' for array in found)
    assert not os.path.exists('exploded')
