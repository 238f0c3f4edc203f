"""Tests the `generate` command end to end, on runs of tiny models."""

import io
import json
import os
import struct
import sys
import zlib

import jax
import numpy as np
from PIL import Image
import pytest
from trax import shapes

from tests.helpers import processes
from trax_hourglass.cli import sampling_flags
from trax_hourglass.cli import write_text
from trax_hourglass.data import byte_corpus
from trax_hourglass.data import image_folder
from trax_hourglass import generate
from trax_hourglass.inference import decoding
from trax_hourglass.models import interop
from trax_hourglass.runtime import gin_config
from trax_hourglass.training import run_directory
from trax_hourglass.training import settings

ROOT = processes.ROOT
TINY = str(ROOT / 'tests' / 'tiny.gin')
SIDE = 2  # Side of the images, in pixels.


def run(main, monkeypatch, *arguments):
  """Runs a command in this process, which has already imported Trax, and returns the exit code."""
  monkeypatch.setattr(sys, 'argv', ['command', *map(str, arguments)])
  try:
    main()
  except SystemExit as stop:
    return stop.code
  return 0


@pytest.fixture(scope='module')
def texts(tiny_run):
  """A run directory of a tiny byte-level model with a maximum length of 90."""
  return tiny_run[0]


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """Arguments that name an untrained model of 2 x 2 images, as checkpoint and config, and the folder of the images."""
  folder = tmp_path_factory.mktemp('images')
  for number in range(20):
    pixels = np.random.RandomState(number).randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f'{number}.png')
  config = folder / 'images.gin'
  config.write_text(f"""
      include '{TINY}'
      length = {3 * SIDE * SIDE}
      fit.corpus = @ImageFolder()
      ImageFolder.path = '{folder}'
      ImageFolder.size = {SIDE}
      """)
  gin_config.parse_gin([str(config)], [])
  model = run_directory.setting('model')(mode='eval')
  model.init(shapes.ShapeDtype((1, 1), np.int32))
  interop.to_trax(model, folder / 'model.pkl.gz')
  return ['--checkpoint', folder / 'model.pkl.gz', '--config_file', config], folder


def test_plain_text_and_json_output_agree(texts, monkeypatch, capsysbinary):
  prompt = 'ä '
  arguments = ['--output_dir', texts, '--prompt', prompt, '--length', '40', '--count', '2', '--seed', '3']
  assert run(generate.main, monkeypatch, *arguments, '--json') == 0
  out, _ = capsysbinary.readouterr()
  result = json.loads(out)
  assert result['prompt'] == prompt and len(result['texts']) == 2 and result['bytes_written'] == 80
  assert 0 < result['bits_per_byte'] < 9 and result['tokens_per_second'] > 0
  assert run(generate.main, monkeypatch, *arguments) == 0
  out, err = capsysbinary.readouterr()
  expected = ''.join(f'--- {number} of 2\n{prompt}{text}\n' for number, text in enumerate(result['texts'], 1))
  assert out == expected.encode('utf-8')
  err = err.decode('utf-8')
  assert '80 bytes' in err and 'bytes/s' in err and f'{result["bits_per_byte"]:.3f} bits per byte' in err


def test_utf8_characters_split_across_pieces_print_whole(capsys):
  show = write_text._Terminal(b'', 1, silent=False)  # pylint: disable=protected-access
  for piece in (b'a\xc3', b'\xa4b\xff', b'\xe2\x82'):
    show([decoding.Sample(np.frombuffer(piece, np.uint8), np.zeros(len(piece)))])
  show.finish([None])
  assert capsys.readouterr().out == 'aäb��\n'


def test_characters_stdout_cannot_encode_are_replaced(monkeypatch):
  stdout = io.TextIOWrapper(io.BytesIO(), 'ascii')
  monkeypatch.setattr(sys, 'stdout', stdout)
  show = write_text._Terminal('ä'.encode(), 1, silent=False)  # pylint: disable=protected-access
  show([decoding.Sample(np.frombuffer('b\xff€c'.encode('latin-1', 'replace'), np.uint8), np.zeros(4))])
  show.finish([None])
  assert stdout.buffer.getvalue() == b'?b??c\n'


def check_greedy(folder, n, monkeypatch, capsys):
  """Asserts that n bytes sampled at temperature 0 are the argmax of the full forward pass at each position."""
  prompt = 'def '
  assert run(generate.main, monkeypatch, '--output_dir', folder, '--prompt', prompt, '--length', n, '--temperature',
             '0', '--config', f'Hourglass.max_length = {n + len(prompt)}', '--json') == 0
  bits = json.loads(capsys.readouterr().out)['bits_per_byte']
  cached = run_directory.load(folder, mode='predict', bindings=[f'Hourglass.max_length = {n + len(prompt)}']).model
  sample, = decoding.Sampler(cached, decoding.Choice(0.0)).sample([prompt.encode()], n)
  model = run_directory.load(folder).model
  tokens = np.array([*prompt.encode(), *sample.tokens], np.int32)[None]
  logits = jax.jit(lambda x: model.pure_fn(x, model.weights, model.state, jax.random.PRNGKey(0))[0])(tokens)
  np.testing.assert_array_equal(np.asarray(logits)[0, len(prompt):].argmax(axis=-1), sample.tokens)
  assert abs(bits + sample.log_probs.mean() / np.log(2)) < 1e-3


def test_greedy_decoding_equals_argmax_of_full_forward_pass(texts, monkeypatch, capsys):
  check_greedy(texts, 80, monkeypatch, capsys)


@pytest.mark.skipif('QUICKSTART_RUN' not in os.environ, reason='QUICKSTART_RUN names no run directory of the '
                                                               'quickstart')
def test_quickstart_greedy_decoding_equals_full_forward_pass(monkeypatch, capsys):
  check_greedy(os.environ['QUICKSTART_RUN'], 1000, monkeypatch, capsys)


def test_prompt_file_and_stop_byte_are_respected(texts, tmp_path, monkeypatch, capsys):
  (tmp_path / 'prompt').write_bytes(b'import \xff')

  def greedy(*flags):
    assert run(generate.main, monkeypatch, '--output_dir', texts, '--prompt_file', tmp_path / 'prompt', '--length',
               '30', '--temperature', '0', '--json', *flags) == 0
    return json.loads(capsys.readouterr().out)

  result = greedy()
  text = result['texts'][0]
  assert result['prompt'] == 'import �' and len(text) == 30
  stop = text[4]
  assert greedy('--stop', str(ord(stop)))['texts'] == [text[:text.index(stop) + 1]]


def test_generated_images_are_written_as_one_grid(images, tmp_path, monkeypatch, capsys):
  arguments, _ = images
  assert run(generate.main, monkeypatch, *arguments, '--image', tmp_path / 'out.png', '--count', '3', '--json') == 0
  result = json.loads(capsys.readouterr().out)
  assert result['dims_written'] == 3 * 12 and 'bits_per_dim' in result
  with Image.open(tmp_path / 'out.png') as image:
    assert image.size == (2 * SIDE + 1, 2 * SIDE + 1)


def test_image_completion_samples_only_the_lower_half(images, tmp_path, monkeypatch, capsys):
  arguments, folder = images
  stdout = io.TextIOWrapper(io.BytesIO(), 'ascii')
  with monkeypatch.context() as patched:
    patched.setattr(sys, 'stdout', stdout)
    assert run(generate.main, monkeypatch, *arguments, '--image', tmp_path / 'ä.png', '--complete', folder / '0.png',
               '--count', '2') == 0
    stdout.flush()
  assert stdout.buffer.getvalue().decode() == f'{tmp_path}/?.png\n' and 'bits per dim' in capsys.readouterr().err
  given = np.asarray(Image.open(folder / '0.png'))
  grid = np.asarray(Image.open(tmp_path / 'ä.png'))
  original, kept, *completed = (grid[:, first:first + SIDE] for first in range(0, grid.shape[1], SIDE + 1))
  np.testing.assert_array_equal(original, given)
  assert (kept[SIDE // 2:] == 0).all() and len(completed) == 2
  for image in (kept, *completed):
    np.testing.assert_array_equal(image[:SIDE // 2], given[:SIDE // 2])
  assert not np.array_equal(completed[0], completed[1])


MISTAKES = [(['--window', '0'], 'window is 0'), (['--window', '90'], 'window is 90: give fewer tokens than the 90'),
            (['--image', '{tmp}/out.png', '--window', '3'], '--window is of texts'),
            (['--length', '200'], 'a prompt of 0 tokens and 200 more are over the maximum of 90'),
            (['--prompt', 'x' * 91], 'a prompt of 91 tokens'), (['--prompt_file', '{tmp}/empty'], 'is empty'),
            (['--prompt_file', '{tmp}/none'], 'cannot be read'), (['--temperature', '-1'], 'temperature is -1.0'),
            (['--top_p', '0'], 'top_p is 0.0'), (['--top_p', '1.5'], 'top_p is 1.5'), (['--top_k', '0'], 'top_k is 0'),
            (['--count', '0'], 'count is 0'), (['--length', '0'], 'length is 0'),
            (['--stop', '256', '--length', '9'], "stop is '256'"), (['--output_dir', '{tmp}/none'], '{tmp}/none'),
            (['--config', 'Hourglass.d_model = 28'], 'd_model'),
            (['--config', 'Hourglass.hierarchy = "2@1"'], 'does not fit'),
            (['--complete', '{tmp}/image.png'], '--image OUT.png'), (['--image', '{tmp}/out.png'], 'not images'),
            (['--image', '{tmp}/none/out.png'], 'no folder'), (['--image', '{tmp}/out.gin'], 'not an image format'),
            (['--seed', '9223372036854775808'], 'seed is 9223372036854775808: give a whole number'),
            (['--seed', '-1'], 'seed is -1'), (['--image', '{tmp}'], 'is a folder: name a file in it'),
            (['--image', '{tmp}/out.psd'], 'cannot be written here'),
            (['--image', '{tmp}/out.xbm'], "'.xbm', an image format that cannot be written here: end it with .png"),
            (['--image', '{tmp}/out.png', '--complete',
              '{tmp}/empty'], 'cannot be read: its image format is not known'),
            (['--image', '{tmp}/out.png', '--prompt', 'x'], 'images have no text'),
            (['--image', '{tmp}/out.png', '--complete', '{tmp}/none.png'], 'cannot be read'),]


@pytest.mark.parametrize('arguments, message', MISTAKES)
def test_user_errors_are_one_line_with_exit_code_2(texts, tmp_path, monkeypatch, capsys, arguments, message):
  (tmp_path / 'empty').write_bytes(b'')
  check_mistake([*(['--output_dir', str(texts)] if '--output_dir' not in arguments else []), *arguments], message,
                tmp_path, monkeypatch, capsys)


def test_completing_an_image_of_another_size_is_an_error(images, tmp_path, monkeypatch, capsys):
  Image.new('RGB', (3, 2)).save(tmp_path / 'image.png')
  check_mistake([*images[0], '--image', '{tmp}/out.png', '--complete', '{tmp}/image.png'],
                'is 3 x 2 (width x height) and the model was trained on 2 x 2', tmp_path, monkeypatch, capsys)


def damaged_pngs():
  """Returns a .png that makes Pillow raise a SyntaxError, and one with a header that claims a huge size."""
  stream = io.BytesIO()
  Image.new('RGB', (2, 2)).save(stream, 'png')
  content = bytearray(stream.getvalue())
  content[content.index(b'IDAT') - 1] -= 5  # The chunk length, so that no valid chunk follows.
  header = b'IHDR' + struct.pack('>IIBBBBB', 50_000, 50_000, 8, 2, 0, 0, 0)
  return bytes(content), bytes(content[:12]) + header + struct.pack('>I', zlib.crc32(header)) + bytes(content[33:])


def test_completing_a_damaged_image_is_an_error(tmp_path, monkeypatch, capsys):
  for content, message in zip(damaged_pngs(), ('broken PNG file', 'too large: it has more than')):
    (tmp_path / 'image.png').write_bytes(content)
    check_mistake(['--output_dir', 'any', '--image', '{tmp}/out.png', '--complete', '{tmp}/image.png'], message,
                  tmp_path, monkeypatch, capsys)


def test_unit_of_a_model_is_known_without_making_its_corpus(images, texts, tmp_path, monkeypatch, capsys):
  def made(*_, **__):
    raise AssertionError('a corpus was made')

  for kind in (image_folder.ImageFolder, byte_corpus.ByteCorpus):
    monkeypatch.setattr(kind, '__init__', made)
  gin_config.parse_gin([str(images[0][-1])], [])
  assert settings.Settings.read().unit == 'dim'
  check_mistake(['--output_dir', texts, '--image', '{tmp}/out.png', '--config', 'length = 12'],
                'the model was trained on bytes, not images', tmp_path, monkeypatch, capsys)


def test_generate_refuses_a_vocabulary_other_than_bytes(tmp_path, monkeypatch, capsys):
  bindings = ['Hourglass.vocab_size = 300']
  gin_config.parse_gin([TINY], bindings)
  model = run_directory.setting('model')(mode='eval')
  model.init(shapes.ShapeDtype((1, 1), np.int32))
  interop.to_trax(model, tmp_path / 'model.pkl.gz')
  flags = [flag for binding in bindings for flag in ('--config', binding)]
  check_mistake(['--checkpoint', '{tmp}/model.pkl.gz', '--config_file', TINY, *flags],
                'the model knows 300 tokens, pieces of a '
                'learnt vocabulary, and only bytes can be shown', tmp_path, monkeypatch, capsys)


def check_mistake(arguments, message, tmp_path, monkeypatch, capsys):
  """Asserts that a command line ends with exit code 2 and a single line that contains the message."""
  before = sorted(tmp_path.iterdir())
  fill_in = lambda text: str(text).replace('{tmp}', str(tmp_path))
  assert run(generate.main, monkeypatch, *map(fill_in, arguments)) == 2
  out, err = capsys.readouterr()
  assert out == '' and len(err.strip().splitlines()) == 1 and err.startswith('generate: ')
  assert fill_in(message) in err
  assert sorted(tmp_path.iterdir()) == before


def test_prompt_and_prompt_file_exclude_each_other(monkeypatch, capsys):
  assert run(generate.main, monkeypatch, '--output_dir', 'x', '--prompt', 'x', '--prompt_file', 'x') == 2
  assert 'not allowed with' in capsys.readouterr().err


@pytest.mark.parametrize('text, byte', [('10', 10), ('0', 0), ('.', 46), (r'\n', 10), (r'\x41', 65), ('\\', 92)])
def test_stop_byte_parses_numbers_characters_and_escapes(text, byte):
  assert sampling_flags.stop_byte(text) == byte


@pytest.mark.parametrize('text', ['256', '-1', 'ab', 'ä', '', r'\q1'])
def test_stop_values_other_than_one_byte_are_refused(text):
  with pytest.raises(ValueError, match='stop is '):
    sampling_flags.stop_byte(text)


@pytest.mark.parametrize('flags', [['--stop', 'ab'], ['--top_p', '2'], ['--count', '0']])
def test_invalid_flags_fail_before_jax_is_imported(flags):
  result = processes.python('-X', 'importtime', '-m', 'trax_hourglass.generate', '--output_dir', 'x', *flags)
  imported = {line.rpartition('|')[2].strip().split('.')[0] for line in result.stderr.splitlines()}
  assert result.returncode == 2 and not imported & {'jax', 'trax', 'tensorflow'}
