"""Tests gin: our files parse and build, our names collide with none of Trax's, bindings reach default plug-ins."""

import re

import gin
import numpy as np
import pytest
import trax
from trax import shapes

from tests.helpers import processes
from trax_hourglass import registry
import trax_hourglass as th
from trax_hourglass.runtime import errors
from trax_hourglass.runtime import gin_config

FOLDER = processes.ROOT / 'gin'
# Those that train within minutes; test_paper_configs.py has the others.
RUNS = ['quickstart.gin', 'baselines/quickstart_flat.gin']

# The lines of Trax's own configs that name what could be ambiguous after importing ours.
TRAX_CONFIG = '''
import trax.layers
import trax.models
import trax.optimizers
train.model = @trax.models.HourglassLM
train.optimizer = @Adam
HourglassLM.downsampling_fn = @AttentionResampling
HourglassLM.upsampling_fn = @AttentionResampling
HourglassLM.attention_downsampling_fn = @AveragePooling
HourglassLM.attention_upsampling_fn = @LinearUpsampling
HourglassLM.vanilla_attn_type = @RelativeAttentionWrapper
HourglassLM.hierarchy = '1@3'
HourglassLM.ff_activation = @trax.layers.FastGelu
TransformerLM.d_model = 8
TransformerLM.n_heads = 2
multifactor.constant = 1.0
'''


def test_gin_folder_does_not_shadow_gin():
  assert not (FOLDER / '__init__.py').exists()


@pytest.mark.parametrize('file', RUNS)
def test_every_run_file_parses_and_its_model_builds(file):
  gin_config.parse_gin([file], [])
  model = th.Hourglass()
  model.init(shapes.ShapeDtype((1, 6), np.int32))
  assert model.output_signature(shapes.ShapeDtype((1, 6), np.int32)).shape == (1, 6, 256)
  for required in ('n_steps', 'warmup_steps', 'peak_learning_rate', 'batch_size', 'length'):
    assert gin.query_parameter(f'%{required}') is not None


def test_quickstart_evaluates_often_enough_for_a_curve():
  gin_config.parse_gin(['quickstart.gin'], [])
  assert gin.query_parameter('%n_steps') / gin.query_parameter('fit.eval_every') >= 20


BASELINES = sorted(path.name for path in FOLDER.glob('baselines/*.gin'))
OF_THE_MODEL = ('fit.model', 'hierarchy', 'chunk', 'Hourglass', 'HourglassLM', 'TransformerLM', 'ReformerLM',
                'LSHSelfAttention', 'TraxLanguageModel')


@pytest.mark.parametrize('baseline', BASELINES)
def test_baseline_differs_in_the_model_only(baseline):
  run, = re.findall(r"include '((?:quickstart|paper/\w+)\.gin)'", (FOLDER / 'baselines' / baseline).read_text())
  gin_config.parse_gin([run], [])
  before = bindings()
  gin_config.parse_gin([f'baselines/{baseline}'], [])
  changed = [name for name, value in bindings().items() if before.get(name) != value]
  assert changed and all(
      name.rsplit('.', 1)[0].split('.')[-1] in OF_THE_MODEL or name in OF_THE_MODEL for name in changed), changed


def bindings():
  """Returns {parameter: value as text} of gin as it is configured."""
  lines = re.sub(r'\\\n', '', gin.config_str()).splitlines()
  return dict(line.split(' = ', 1) for line in lines if ' = ' in line and not line.startswith('#'))


def test_names_of_trax_stay_unambiguous():
  known = gin.config._REGISTRY  # pylint: disable=protected-access
  for name in registry._registered.values():
    assert len(known.matching_selectors(name.__name__)) == 1, name
  gin.parse_config(TRAX_CONFIG)
  # Trax recognises its own attention by identity, which gin's wrapper has not; the name resolved, that is all we ask.
  gin.bind_parameter('HourglassLM.vanilla_attn_type', trax.layers.research.rel_attention.RelativeAttentionWrapper)
  model = trax.models.HourglassLM(vocab_size=7, d_model=8, d_ff=8, n_heads=2, mode='eval')
  model.init(shapes.ShapeDtype((1, 3), np.int32))


def test_binding_reaches_a_default_plug_in():
  gin.parse_config('''
      import trax_hourglass
      ShortenByAttention.query = @ShortenByLinear
      UpsampleByAttention.added = @UpsampleByRepeat
  ''')
  tree = str(th.Hourglass(11, '1@1 1@3 1@1', 14, 10, 7))
  assert 'ShortenByLinear' in tree and 'Repeat_3' in tree and 'Average' not in tree


def test_plug_in_chosen_by_gin():
  gin.parse_config('''
      import trax_hourglass
      Hourglass.shortening = @ShortenByAverage
      Hourglass.upsampling = @UpsampleByRepeat
  ''')
  tree = str(th.Hourglass(11, '1@1 1@3 1@1', 14, 10, 7))
  assert 'Average_3' in tree and 'ByAttention' not in tree


@pytest.mark.parametrize('binding', ['Hourglass.heirarchy = "1@1"', 'ShortenByAttention.querry = 3'])
def test_misspelt_parameters_are_errors(binding):
  with pytest.raises(errors.InputError):
    gin_config.parse_gin(['quickstart.gin'], [binding])
    th.Hourglass()
