"""Tests `python -m trax_hourglass.evaluate` end to end, on our runs and on the authors' checkpoints."""

import functools
import json
import math

import jax
import numpy as np
import pytest
import trax
from trax import layers as tl
from trax import optimizers
from trax.supervised import training

from trax_hourglass import evaluate
from tests.helpers import doors
from tests.helpers import pairs
from tests.helpers import runs

MODEL = [*runs.HOURGLASS, 'Hourglass.d_model = 8', 'Hourglass.d_ff = 6', 'Hourglass.n_heads = 1']


main = functools.partial(doors.main, command=evaluate)


@pytest.fixture(scope='module')
def trained(tiny_run):
  """(run directory after 30 steps, the result of fit)."""
  directory, _, result = tiny_run
  return directory, result


def test_evaluate_matches_the_validation_score_of_fit(trained, monkeypatch, capsys):
  run, result = trained
  assert main(monkeypatch, '--output_dir', run, '--json') == 0
  fields = json.loads(capsys.readouterr().out)
  np.testing.assert_allclose(fields['bits_per_byte'], result.valid_bits_per_token, rtol=1e-6)
  assert (fields['n_tokens'], fields['length'], fields['stride'], fields['context']) == (50, 13, 13, 0)
  assert (fields['split'], fields['protocol'], fields['step']) == ('valid', None, 30)
  assert fields['standard_error'] > 0 and fields['n_windows'] == 4 and fields['tokens_per_second'] > 0
  assert result.as_dict()['valid_bits_per_byte'] == result.valid_bits_per_token and 'unit' not in result.as_dict()


def test_flags_set_the_evaluation_windows(trained, monkeypatch, capsys):
  arguments = '--output_dir', trained[0], '--split', 'test', '--context', 8, '--stride', 5, '--max_tokens', 40
  found = []
  for batch_size in (3, 8):
    assert main(monkeypatch, *arguments, '--batch_size', batch_size, '--json') == 0
    found.append(json.loads(capsys.readouterr().out))
  for fields in found:
    assert [fields[name] for name in ('n_tokens', 'n_windows', 'length', 'stride', 'split')] == [40, 7, 13, 5, 'test']
  np.testing.assert_allclose(found[0]['bits_per_byte'], found[1]['bits_per_byte'], rtol=1e-5)
  assert main(monkeypatch, *arguments) == 0
  line, = capsys.readouterr().out.strip().splitlines()
  score = f'{fields["bits_per_byte"]:.4f} ± {fields["standard_error"]:.4f}'
  assert line.startswith(f'{score} bits per byte (40 bytes of the test split')
  assert 'context 8, stride 5' in line and 'bytes/s' in line and 'step 30' in line


@pytest.mark.parametrize('arguments, message', [
    (['--output_dir', '{tmp}/none'], 'is missing'), ([], 'give a run directory'),
    (['--output_dir', '{tmp}'], 'no checkpoint'),
    (['--output_dir', '{run}', '--split', 'dev'], "split 'dev' does not exist"),
    (['--output_dir', '{run}', '--protocol', 'papers'], "protocol 'papers'"),
    (['--output_dir', '{run}', '--config', 'Hourglass.vocab_size = 300'], 'vocabulary of 256'),
    (['--output_dir', '{run}', '--batch_size', '0'], 'batch_size is 0'),
    (['--output_dir', '{run}', '--context', '13'], 'give both'),
    (['--output_dir', '{run}', '--checkpoint', '{tmp}/other.pkl.gz'], 'other.pkl.gz'),
])
def test_user_errors_are_one_line_with_exit_code_2(trained, tmp_path, monkeypatch, capsys, arguments, message):
  arguments = [argument.replace('{tmp}', str(tmp_path)).replace('{run}', str(trained[0])) for argument in arguments]
  assert main(monkeypatch, *arguments) == 2
  out, err = capsys.readouterr()
  assert out == '' and len(err.strip().splitlines()) == 1 and err.startswith('evaluate: ') and message in err


@pytest.fixture(scope='module')
def authors(tmp_path_factory):
  """A run of Trax's loop with the authors' byte-level model: (directory, the model in mode 'eval')."""
  directory = tmp_path_factory.mktemp('authors')
  options = dict(vocab_size=256, d_model=8, d_ff=6, vanilla_layers=(0, 0), hierarchy='1@3', n_heads=1, dropout=0.0,
                 downsampling_fn=pairs.SHORTENINGS['average'][1], upsampling_fn=pairs.UPSAMPLINGS['repeat'][1])
  x = np.random.RandomState(0).randint(0, 256, (2, 12)).astype(np.int32)
  batch = x, x, np.ones(x.shape, np.float32)
  task = training.TrainTask(iter(lambda: batch, None), tl.WeightedCategoryCrossEntropy(), optimizers.Adam(1e-2),
                            n_steps_per_checkpoint=2)
  training.Loop(trax.models.HourglassLM(mode='train', **options), task, output_dir=str(directory), random_seed=0).run(2)
  model = trax.models.HourglassLM(mode='eval', **options)
  model.init_from_file(str(directory / 'model.pkl.gz'), weights_only=True, input_signature=trax.shapes.signature(x))
  return directory, model


def as_the_notebook_counts(model, tokens, window, chunk, multiple):
  """Returns nats per token: the sum of masked losses over chunks, divided by the number of tokens.

  Each chunk has all the context that fits the window, and padding on the right. The chunks of the first window start
  at the same token, so here one pass scores them all.
  """
  loss_layer = tl.WeightedCategoryCrossEntropy()
  run = jax.jit(lambda batch: loss_layer((model.pure_fn(batch[0], model.weights, model.state, jax.random.PRNGKey(0))[0],
                                          *batch[1:])))
  total, padded = 0.0, -(-window // multiple) * multiple
  for start in (0, *range(window, len(tokens), chunk)):
    end = min(start + chunk, len(tokens)) if start else window
    seen = tokens[max(0, start - window + chunk):end]
    x, mask = np.zeros((1, padded), np.int32), np.zeros((1, padded), np.float32)
    x[0, :len(seen)] = seen
    mask[0, len(seen) - (end - start):len(seen)] = 1
    total += float(run((x, x, mask))) * (end - start)
  return total / len(tokens)


def test_protocol_paper_matches_the_authors_notebook(authors, tmp_path, monkeypatch, capsys):
  directory, model = authors
  text = np.random.RandomState(1).randint(0, 256, 90000).astype(np.uint8)
  (tmp_path / 'text').write_bytes(text.tobytes())
  flags = [flag for binding in (*MODEL, f"ByteCorpus.path = '{tmp_path}/text'") for flag in ('--config', binding)]
  assert main(monkeypatch, '--checkpoint', directory / 'model.pkl.gz', '--config_file', runs.TINY, *flags,
              '--split', 'test', '--protocol', 'paper', '--json') == 0
  fields = json.loads(capsys.readouterr().out)
  # The first window scores 4096 tokens; the others score 128 each, and the last one 20.
  assert (fields['n_tokens'], fields['n_windows'], fields['context']) == (4500, 5, 3968)
  assert fields['step'] == 2
  expected = as_the_notebook_counts(model, text[-4500:], 4096, 128, 3) / math.log(2)
  np.testing.assert_allclose(fields['bits_per_byte'], expected, rtol=1e-5)
