"""Tests gin/paper and gin/baselines: each file states its source, builds the model that the paper counts, and has its
schedule.
"""

import json
import math
import pathlib
import re

import gin
import jax
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from trax import layers as tl
from trax import shapes

from tests.helpers import processes
from tests.helpers import sampling
import trax_hourglass as th
from trax_hourglass.data import batches
from trax_hourglass.inference import causality
from trax_hourglass.layers import loss
from trax_hourglass.runtime import gin_config
from trax_hourglass.training import step
from trax_hourglass.training import run_directory

FOLDER = processes.ROOT / 'gin'

# File: parameters, counted by this code, and what the paper prints or a sum by hand confirms.
PARAMETERS = {
    'paper/enwik8_ablation.gin': 48_080_128,
    'paper/enwik8.gin': 138_616_576,
    'paper/trax_enwik8.gin': 123_211_008,
    'paper/cifar10.gin': 42_038_016,
    'paper/trax_cifar10.gin': 42_824_960,
    'paper/imagenet32.gin': 111_125_760,
    'paper/trax_imagenet32.gin': 111_125_760,
    'paper/imagenet64.gin': 135_068_416,
    'paper/trax_imagenet64.gin': 135_068_416,
    'paper/imagenet64_local.gin': 142_155_520,
    'paper/wiki40b.gin': 62_790_912,
    'paper/trax_wiki40b.gin': 95_328_512,
    'baselines/enwik8_flat.gin': 27_584_768,
    'baselines/cifar10_flat.gin': 34_414_848,
    'baselines/imagenet64_reformer.gin': 117_346_048,
    'baselines/enwik8_transformer_lm.gin': 26_531_072,
    'baselines/enwik8_reformer_lm.gin': 24_549_632,
    'baselines/enwik8_trax_hourglass_lm.gin': 34_419_968,
}
# Of models that are not ours; models/test_trax_language_model.py trains these.
NOT_OURS = [file for file in PARAMETERS if file.endswith('_lm.gin')]
# Hierarchy: parameters, and millions of them as Table 1 prints.
TABLE_1 = {
    '6@1': (20_754_688, 21), '2@1 1@3 2@1': (24_174_848, 24), '2@1 4@4 2@1': (34_419_968, 34), '8@1': (27_584_768, 28),
    '2@1 4@3 2@1': (34_419_968, 34), '2@1 8@4 2@1': (48_080_128, 48), '2@1 1@2 4@4 1@2 2@1': (48_085_248, 48),
    '2@1 8@3 2@1': (48_080_128, 48), '10@1': (34_414_848, 34), '3@1 8@4 3@1': (54_910_208, 55), '12@1': (
        41_244_928, 41), '4@1 8@4 4@1': (61_740_288, 62), '2@1 16@3 2@1': (75_400_448, 75), '14@1': (
            48_075_008, 48), '5@1 8@2 5@1': (68_570_368, 69),
}


def parse(file, *bindings):
  """Configures gin with a file and the bindings that a user has to add."""
  gin.clear_config()
  gin_config.parse_gin([file], ["Wiki40b.sentencepiece = 'FILE.model'", *bindings])


def count_parameters():
  """Returns the number of parameters of the configured model; nothing is computed."""
  model = run_directory.setting('model')(mode='train')
  weights, _ = jax.eval_shape(lambda key: model.init(shapes.ShapeDtype((1, 12), np.int32), rng=key),
                              jax.ShapeDtypeStruct((2,), np.uint32))
  return sum(math.prod(w.shape) for w in jax.tree.leaves(weights))


def shape_model():
  """Returns parameters and shape of the logits of the configured model, of which nothing is computed."""
  model = run_directory.setting('model')(mode='train')
  tokens = shapes.ShapeDtype((1, run_directory.setting('length')), np.int32)

  def run(key):
    weights, state = model.init(tokens, rng=key)
    return weights, model.pure_fn(np.zeros(tokens.shape, np.int32), weights, state, key)[0]

  weights, logits = jax.eval_shape(run, jax.ShapeDtypeStruct((2,), np.uint32))
  return sum(math.prod(w.shape) for w in jax.tree.leaves(weights)), logits.shape


def test_all_paper_configs_exist():
  found = {str(file.relative_to(FOLDER)) for part in ('paper', 'baselines') for file in (FOLDER / part).glob('*.gin')}
  assert found == {*PARAMETERS, 'baselines/quickstart_flat.gin'}


@pytest.mark.parametrize('file', PARAMETERS)
def test_file_opens_with_a_command_whose_files_exist(file):
  text = (FOLDER / file).read_text()
  opening = text[:text.index('\n\n')]
  assert f'-m trax_hourglass.train --config_file gin/{file}' in opening
  assert all((processes.ROOT / named).exists() for named in re.findall(r'--config_file ([\w./]+)', opening))
  assert all(line.startswith('#') for line in opening.splitlines())


@pytest.mark.parametrize('file', [file for file in PARAMETERS if file.startswith('paper/')])
def test_paper_configs_name_a_device_on_which_they_fit(file):
  """Compares with the results of benchmarks/compiled.py."""
  compiled = json.loads((processes.ROOT / 'docs/results/compiled.json').read_text(encoding='utf-8'))
  row = compiled[f'{pathlib.Path(file).stem}, h100']
  assert row['fits'] and row['n_parameters'] == PARAMETERS[file]
  assert f'# Fits on one H100 in bfloat16: {row["device_bytes"] / 2**30:.1f} GiB,' in (FOLDER / file).read_text()


@pytest.mark.parametrize('file', PARAMETERS)
def test_models_have_the_parameters_of_their_config(file):
  parse(file)
  if file in NOT_OURS:
    assert count_parameters() == PARAMETERS[file]
    return
  n_parameters, logits = shape_model()
  assert n_parameters == PARAMETERS[file]
  assert logits == (1, run_directory.setting('length'), gin.query_parameter('Hourglass.vocab_size'))


@pytest.mark.parametrize('hierarchy', sampling.some(('2@1 8@3 2@1', '2@1 1@2 4@4 1@2 2@1', '14@1'), TABLE_1))
def test_rows_of_table_1_have_the_parameters_that_it_prints(hierarchy):
  parse('paper/enwik8_ablation.gin', f"hierarchy = '{hierarchy}'")
  n_parameters = count_parameters()
  assert (n_parameters, round(n_parameters / 1e6)) == TABLE_1[hierarchy]


@pytest.mark.parametrize('file, rates', [
    ('paper/enwik8_ablation.gin', {2000: 2e-4, 4000: 4e-4, 102000: 2e-4, 200000: 0.0}),
    ('paper/enwik8.gin', {10000: 2e-4, 20000: 4e-4, 185000: 2e-4, 350000: 0.0}),
    ('paper/trax_enwik8.gin', {4000: 4.1e-4, 179000: 2.05e-4, 354000: 0.0}),
    ('paper/cifar10.gin', {5000: 1e-3, 52500: 5e-4, 100000: 0.0}),
    ('paper/imagenet32.gin', {4000: 2.45e-4, 8000: 4.9e-4, 32000: 2.45e-4, 400000: 4.9e-4 / 50**0.5,
                              435000: 4.9e-4 / 50**0.5 / 2, 470000: 0.0}),
    ('paper/trax_imagenet32.gin', {8000: 4.9e-4, 400000: 4.9e-4 / 50**0.5}),
    ('paper/imagenet64.gin', {8000: 3.5e-4, 32000: 1.75e-4, 300000: 3.5e-4 / 37.5**0.5}),
    ('paper/wiki40b.gin', {10000: 1e-3, 125000: 0.0}),
    ('paper/trax_wiki40b.gin', {10000: 1e-3, 135000: 0.0}),
])
def test_learning_rates_by_hand(file, rates):
  parse(file)
  schedule = run_directory.setting('schedule')
  # Trax's own warm-up ends a step later.
  np.testing.assert_allclose([schedule(step) for step in rates], list(rates.values()), rtol=3e-4, atol=1e-12)
  # Never a value on the device, which would wait for it.
  assert all(isinstance(schedule(step), float) for step in rates)


def test_reformer_has_lsh_attention_in_every_layer():
  parse('baselines/imagenet64_reformer.gin')
  assert 'PureLSHSelfAttention' in str(th.Hourglass()) and 'RelativeAttention' not in str(th.Hourglass())
  parse('paper/imagenet64.gin')
  assert 'PureLSHSelfAttention' in str(th.Hourglass()) and 'RelativeAttention' in str(th.Hourglass())


def mock_tfds(file):
  """Makes TFDS serve made-up articles, or random images of 32 x 32."""
  if 'wiki40b' in file:
    return tfds.testing.mock_data(num_examples=5)
  images = np.random.RandomState(0).randint(0, 256, (3, 32, 32, 3)).astype(np.uint8)
  return tfds.testing.mock_data(as_dataset_fn=lambda *_, **__: tf.data.Dataset.from_tensor_slices({'image': images}))


# One of each kind; the others differ in numbers that the tiny versions replace.
TRAINED = sampling.some(['paper/enwik8.gin', 'paper/trax_enwik8.gin', 'paper/cifar10.gin', 'paper/imagenet64_local.gin',
                         'paper/wiki40b.gin', 'baselines/imagenet64_reformer.gin', 'baselines/cifar10_flat.gin'],
                        [file for file in PARAMETERS if file not in NOT_OURS])


@pytest.mark.parametrize('file', TRAINED)
def test_tiny_version_trains_a_step_and_is_causal(file, tmp_path):
  """Trains one narrow layer on each level, and images of 4 x 4.

  Any bytes take the place of enwik8, of which a part is known by its checksum, and of ImageNet, whose size is fixed.
  """
  parse(file)
  parts = gin_config.bound('Hourglass.hierarchy').split()
  # One layer in the deepest level, and one on the way down where attention differs there.
  first = 0 if 'imagenet64' in file else len(parts) // 2
  levels = ' '.join(f'{int(first <= i <= len(parts) // 2)}@{part.split("@")[1]}' for i, part in enumerate(parts))
  is_text = 'enwik8' in file or 'wiki40b' in file
  bindings = [
      f"Hourglass.hierarchy = '{levels}'",
      'Hourglass.d_model = 8',
      'Hourglass.d_ff = 6',
      'Hourglass.n_heads = 1',
      'Hourglass.dropout = 0.0',  # Drops nothing, so that files which differ in this number share a program.
      'Wiki40b.sentencepiece = None',
      'Cifar10.n_valid = 1',
      'Cifar10.size = 4',
      'batch_size = 1',
      *(['chunk = 16'] if '%chunk' in gin.config_str() else []),
      *(f"{corpus}.cache_dir = '{tmp_path}'" for corpus in ('Cifar10', 'Wiki40b')),
      *(['fit.corpus = @ByteCorpus()', f"ByteCorpus.path = '{__file__}'"]
        if 'enwik8' in file or 'imagenet' in file else []),
      f'length = {12 if is_text else 48}'
  ]
  parse(file, *bindings)
  with mock_tfds(file):
    data = run_directory.setting('corpus').split('train')
  model, optimizer = run_directory.setting('model')(mode='train'), run_directory.setting('optimizer')
  batch = next(batches.RandomWindows(data, 1, run_directory.setting('length'), 0, model.vocab_size))
  model.init(shapes.signature(batch[0]))
  chunk = run_directory.setting('loss_chunk')
  layer = loss.LossInChunks(model, chunk) if chunk else tl.Serial(model, tl.WeightedCategoryCrossEntropy())
  layer.init(shapes.signature(batch))
  optimizer.tree_init(layer.weights)
  before = jax.tree.leaves(layer.weights)[0]
  trainer = step.Trainer(layer, optimizer)
  value, _ = trainer.one_step(batch, np.array([0, 1], np.uint32), 1, run_directory.setting('schedule')(1))
  assert 0.5 < float(value) / math.log(model.vocab_size) < 1.5
  assert not np.array_equal(jax.tree.leaves(layer.weights)[0], before)
  evaluated = run_directory.setting('model')(mode='eval')
  evaluated.init(shapes.signature(batch[0]))
  evaluated.weights = jax.tree.map(lambda w: w + 0.3 * np.random.RandomState(1).randn(*w.shape), evaluated.weights)
  # Trax's LSH attention sorts all tokens into chunks: which earlier keys a query meets depends on later tokens too.
  assert (causality.check(evaluated, batch[0][0], 16).leak is not None) == ('LSH' in str(evaluated))
