"""Tests Trax's own language models under our interface: any length and batch, causal, trained by our step."""

import math

import gin
import jax
import numpy as np
from tests.helpers import comparisons
from tests.helpers import pairs
from tests.helpers import sampling
import pytest
from trax import layers as tl
from trax import optimizers
from trax import shapes

from trax_hourglass.models import flops
from trax_hourglass import registry
from trax_hourglass.runtime import gin_config
from trax_hourglass.training import step as step_lib
from trax_hourglass.training import run_directory
from tests.helpers.causality import assert_causal

SIZES = {
    'transformer_lm': ('TransformerLM.n_layers = 1', 'TransformerLM.d_model = 14', 'TransformerLM.d_ff = 10',
                       'TransformerLM.n_heads = 7', 'TransformerLM.dropout = 0.1'),
    'reformer_lm': ('chunk = 4', 'ReformerLM.n_layers = 1', 'ReformerLM.d_model = 14', 'ReformerLM.d_ff = 10',
                    'ReformerLM.n_heads = 1', 'ReformerLM.d_attention_key = 6', 'ReformerLM.d_attention_value = 6',
                    'ReformerLM.dropout = 0.1'),
    'trax_hourglass_lm': (
        'HourglassLM.vanilla_layers = (0, 0)', 'HourglassLM.hierarchy = "1@3"', 'HourglassLM.d_model = 14',
        'HourglassLM.d_ff = 10', 'HourglassLM.n_heads = 7', 'HourglassLM.dropout = 0.1',
        # A third of what the paper's take to compile.
        'HourglassLM.downsampling_fn = @trax.layers.AveragePooling',
        'HourglassLM.upsampling_fn = @trax.layers.NaiveUpsampling'),
}


@pytest.fixture(params=SIZES)
def make(request):
  """Returns the function mode -> model of a file of gin/models, made tiny."""
  bindings = [f'TraxLanguageModel.vocab_size = {pairs.VOCAB}', *SIZES[request.param]]
  gin_config.parse_gin(['quickstart.gin', f'models/{request.param}.gin'], bindings)
  return run_directory.setting('model')


def test_causal_at_any_length_and_batch_size(make):
  model = pairs.initialise(make(mode='eval'), 5)  # Two sequences of 5.
  if 'Reformer' in gin.config_str():  # It sees earlier tokens only, but which depends on how all of them were sorted.
    x = pairs.tokens(13, batch=3)
    assert np.isfinite(pairs.forward(model)(model.weights, x)).all()
  else:
    assert_causal(model, 13)


def test_our_training_step_trains_a_trax_model(make):
  model, x = make(mode='train'), pairs.tokens(13)
  batch = x, x, np.ones(x.shape, np.float32)
  model_with_loss = tl.Serial(model, tl.WeightedCategoryCrossEntropy())
  model_with_loss.init(shapes.signature(batch))
  optimizer = optimizers.SGD(0.1)
  optimizer.tree_init(model_with_loss.weights)
  before = [np.asarray(w) for w in jax.tree.leaves(model.weights)]
  loss, _ = step_lib.Trainer(model_with_loss, optimizer).one_step(batch, np.array([0, 1], np.uint32), 1, 0.1)
  assert 0.5 < float(loss) / math.log(pairs.VOCAB) < 2
  assert not all(np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(model.weights)))
  assert flops.training_step(model, *x.shape) > 0


def test_a_comparison_takes_a_trax_model(tmp_path):
  # The other models take the same path.
  names = sampling.some(['transformer_lm'], SIZES)
  rows = {name: [f"include 'models/{name}.gin'", *SIZES[name]] for name in names}
  tiny = comparisons.TINY
  gin_config.parse_gin([tiny], [
      f"ByteCorpus.path = '{__file__}'", f'compare.rows = {rows!r}', 'compare.also_evaluate = None',
      'compare.paper = None', 'compare.seeds = (0,)', 'compare.steps = 1', 'compare.measured_steps = 1'
  ])
  for row in registry.compare(str(tmp_path / 'x'))['rows']:
    assert not row['errors'] and row['kind'] == 'Trax' and 7 < row['bits_per_byte'] < 9, row


@pytest.mark.parametrize('bindings, mode, message', [
    (['TraxLanguageModel.length_multiple = 0'], 'train', 'length_multiple is 0'),
    (['TraxLanguageModel.vocab_size = "all"'], 'train', "vocab_size is 'all'"),
    ([], 'predict', "no mode 'predict'")])
def test_invalid_trax_models_are_refused(bindings, mode, message):
  gin_config.parse_gin(['quickstart.gin', 'models/transformer_lm.gin'], bindings)
  with pytest.raises(ValueError, match=message):
    run_directory.setting('model')(mode=mode)
