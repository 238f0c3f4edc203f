"""Tests the identity of a run: its config, and the fingerprint of its data."""

import functools

import gin
import numpy as np
import pytest

from trax_hourglass import registry
from trax_hourglass.data import fingerprint
from trax_hourglass.training import run_config


def test_configs_are_compared_by_resolved_values():
  before = "# comment\nn = 3\nwide = @that()\nA.x = %n\nB.y = %wide\nfit.z = 1\nA.path = 'a'\n"
  assert run_config.differences(before, before.replace('A.x = %n', 'A.x = 3').replace("'a'", "'b'")) == []
  assert run_config.differences(before, before.replace('n = 3', 'n = 4')) == ['A.x was 3 and is 4']
  assert run_config.differences(before, before.replace('fit.z = 1\n', 'C.x = 3\n')) == []
  assert run_config.differences(before, before.replace('@that', '@this')) == ['B.y was @that() and is @this()']


def test_n_steps_may_change_but_not_the_schedule_alone():
  config = 'n_steps = 500\nfit.n_steps = %n_steps\nWarmupCosine.n_steps = %n_steps\nWarmupCosine.peak = 0.1\n'
  assert run_config.differences(config, config.replace('500', '900')) == []
  assert run_config.differences(config, config.replace('fit.n_steps = %n_steps', 'fit.n_steps = 900')) == []
  alone = config.replace('WarmupCosine.n_steps = %n_steps', 'WarmupCosine.n_steps = 900')
  assert run_config.differences(config, alone) == ['WarmupCosine.n_steps was 500 and is 900']
  assert run_config.differences(alone, config) == ['WarmupCosine.n_steps was 900 and is 500']
  assert run_config.differences(config, alone.replace('900', '500')) == []
  assert run_config.differences(config, config.replace('0.1', '%n_steps')) == ['WarmupCosine.peak was 0.1 and is 500']


@pytest.mark.parametrize('line, was, is_', [
    ('Hourglass.ff_activation = @trax.layers.Relu', '@FastGelu', '@trax.layers.Relu'),
    ('Hourglass.vanilla_attention = @CausalLocalAttention', '@CausalRelativeAttention', '@CausalLocalAttention'),
    ('fit.windows = @Epochs', '@RandomWindows', '@Epochs')])
def test_functions_are_compared_where_only_one_config_binds_them(line, was, is_):
  config = 'fit.seed = 0\nHourglass.d_model = 4\n'
  name, _, _ = line.partition(' = ')
  assert run_config.differences(config, f'{config}{line}\n') == [f'{name} was {was} and is {is_}']
  assert run_config.differences(f'{config}{line}\n', config) == [f'{name} was {is_} and is {was}']
  default = f'{config}{name} = @trax_hourglass.any.{was[1:]}\n'
  assert run_config.differences(config, default) == run_config.differences(default, config) == []


def test_defaults_without_a_name_are_compared():
  partial = functools.partial(max, 3)

  def uses(x=1, f=partial):
    return x, f

  gin.external_configurable(uses, 'Uses', module='run_config_test')
  gin.external_configurable(partial, 'ThreeOrMore', module='run_config_test')
  config = 'Uses.x = 1\n'
  assert run_config.differences(config, f'{config}Uses.f = @ThreeOrMore\n') == []
  assert run_config.differences(config, f'{config}Uses.f = @Epochs\n') == [f'Uses.f was @{partial} and is @Epochs']


def test_configs_name_the_defaults_of_plug_ins():
  gin.clear_config()
  gin.parse_config('Hourglass.vanilla_attention = @CausalLocalAttention')
  registry.Hourglass(hierarchy='1@1 1@2 0@1', d_model=4, d_ff=4, n_heads=1)
  for line in 'CausalLocalAttention.window = 256', "UpsampleByAttention.distances_in = 'vectors'":
    assert line in gin.operative_config_str()


def test_fingerprint_of_90_million_tokens_sees_one_moved_token():
  class Zeros:
    """Holds 90 million tokens, of which one is not 0."""
    def __init__(self, changed):
      self.changed = changed

    def __len__(self):
      return 90_000_000

    def read(self, start, length):
      tokens = np.zeros(length, np.uint8)
      tokens[max(0, self.changed - start):self.changed - start + 1] = 1
      return tokens
  assert fingerprint.fingerprint(Zeros(100_000)) != fingerprint.fingerprint(Zeros(100_001))
