"""Tests programs for accelerators and several devices, without either: types of products, and collectives."""

import collections
import json
import re
import types
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from trax import layers as tl

from tests.helpers import processes
from tests.helpers import sampling
from tests.helpers import step_programs
from trax_hourglass.ops import dense
from trax_hourglass.ops import remat
from trax_hourglass.ops import tiled_attention
from trax_hourglass.planning import program_text
from trax_hourglass.planning import step_program
from trax_hourglass.runtime import sharding


def wide_product(spec, tokens_per_vector):
  """Replaces a block's attention by one with a planted fault: a product whose factors are float32."""
  del tokens_per_vector
  def layer(x):
    wide = x.astype(jnp.float32)
    return (wide @ jnp.ones((spec.d_model, spec.d_model), jnp.float32)).astype(x.dtype)
  return tl.Fn('Wide', layer)


def traced(platform, n_devices=4, **options):
  return step_program.StepProgram(step_programs.Settings(**options), sharding.nowhere(n_devices, platform)).traced()


def products(text):
  """Returns [(types of the factors, type and shape)] of a lowered program's products, sums of squares aside."""
  found = re.findall(r'stablehlo\.dot_general .*: \(tensor<([\w]+)>, tensor<([\w]+)>\) -> tensor<(\w+)>', text)
  return [({left.split('x')[-1], right.split('x')[-1]}, out) for left, right, out in found if 'x' in out]


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
@pytest.mark.parametrize('options, is_wide', [
    ({}, False), ({'hierarchy': '1@1', 'vanilla_attention': wide_product}, True)])
def test_a_bfloat16_step_has_no_float32_products_on_accelerators(platform, options, is_wide):
  text = traced(platform, dtype='bfloat16', **options).lower(lowering_platforms=(platform,)).as_text()
  found = products(text)
  assert len(found) > 10
  assert any('f32' in factors for factors, _ in found) == is_wide


@pytest.mark.parametrize('is_planted', [False, True])
def test_gradients_of_dense_weights_are_summed_in_float32(is_planted, monkeypatch):
  if is_planted:
    product = dense._product
    monkeypatch.setattr(dense, '_product', lambda *args: product(*args[:-1], args[0].dtype))
  text = traced('tpu', dtype='bfloat16', d_model=40, d_ff=72).lower(lowering_platforms=('tpu',)).as_text()
  shapes = '40x40', '40x72', '72x40', '8x40', '8x72'  # Matrices; sums for biases, each by 8 rows of ones.
  of_weights = [out for _, out in products(text) if out.rpartition('x')[0] in shapes]
  assert len(of_weights) > 12 and {out.rpartition('x')[0] for out in of_weights} == set(shapes)
  assert {out.rpartition('x')[2] for out in of_weights} == ({'bf16'} if is_planted else {'f32'})


@pytest.mark.parametrize('is_planted', [False, True])
def test_no_compiled_step_stores_masks_of_all_tiles(is_planted, monkeypatch):
  monkeypatch.setattr(tiled_attention, '_BLOCK_QUERIES', 4)
  monkeypatch.setattr(tiled_attention, '_SPAN_KEYS', 4)
  # `jax.lax.scan`, as on TPUs, moves out of the loop what does not change between iterations.
  monkeypatch.setattr(remat, 'sharding', types.SimpleNamespace(platform=lambda: 'tpu'))
  if is_planted:
    monkeypatch.setattr(tiled_attention, '_zero_of', lambda x: jnp.int32(0))
  tiled_attention.attend.clear_cache()
  try:
    program = step_program.StepProgram(step_programs.Settings(hierarchy='3@1'), sharding.over_devices(1))
    text = program.traced().lower().compile().as_text()
  finally:
    tiled_attention.attend.clear_cache()
  masks = [tuple(map(int, found.split(','))) for found in re.findall(r'pred\[([\d,]+)\]', text)]
  of_tiles = [shape for shape in masks if len(shape) > 2 and shape[0] > 1 and shape[-2:] == (4, 4)]
  assert bool(of_tiles) == is_planted


def test_tracing_takes_the_platform_of_the_mesh():
  """On CPUs, tiles take one head of one row at a time; on GPUs, all of them; TPUs use kernels."""
  shapes = lambda platform: set(re.findall(r'f32\[[\d,]+\]', str(traced(platform, 1, hierarchy='1@1').jaxpr)))
  assert len({frozenset(shapes(platform)) for platform in ('cpu', 'cuda', 'tpu')}) == 3
  with sharding.divided(sharding.nowhere(1, 'cuda')):
    assert sharding.platform() == 'gpu'
  assert sharding.platform() == jax.default_backend()
  with mock.patch.object(jax, 'default_backend', lambda: 'tpu'):
    assert sharding.platform() == 'tpu'
    for device in jax.devices('cpu')[0], 'cpu':  # Where a TPU's host makes arrays.
      with jax.default_device(device):
        assert sharding.platform() == 'cpu'


@pytest.fixture(scope='module')
def facts():
  """Returns the facts of step_programs in steps for eight devices, by name."""
  command = processes.Command(
      'tests.helpers.step_programs', *sampling.some([], ['all']),
      XLA_FLAGS=f'--xla_force_host_platform_device_count=8 {processes.QUICK}')
  stdout, stderr = command.communicate()
  assert command.returncode == 0, stderr[-3000:]
  return json.loads(stdout.splitlines()[-1])


def strays(found):
  """Returns shapes that move, except those of weights, layers of a stack, scalars and projected distances."""
  weights = {tuple(shape) for shape in found['weights']}
  of_weights = weights | {shape[1:] for shape in weights} | {()}
  moved = {tuple(shape) for shapes in found['arrays'].values() for shape in shapes}
  of_one = {shape for shape in moved if set(shape) == {1}}  # The scalar from which gradients of resamplings start.
  return {shape for shape in moved - of_weights - of_one if not (len(shape) == 4 and shape[2:] in weights)}


def test_data_parallel_steps_only_all_reduce_gradients(facts):
  assert set(facts['data parallel']['collectives']) == {'all-reduce'}
  assert not strays(facts['data parallel'])


def test_fsdp_moves_weights_and_gradients_but_no_activations(facts):
  for name, found in facts.items():
    if name in ('data parallel', 'planted'):
      continue
    assert set(found['collectives']) <= {'all-gather', 'all-reduce', 'reduce-scatter'}, name
    assert not strays(found), name
    whole_stacks = [shape for shape in found['arrays']['all-gather'] if len(shape) > 2]
    assert not whole_stacks, 'weights of several layers are gathered at once'


def test_a_gathered_activation_is_detected(facts):
  assert (step_programs.B, step_programs.L, 32) in strays(facts['planted'])


def test_fsdp_shards_weights_and_slots_over_devices(facts):
  of_each, whole = (facts[name]['argument_bytes'] for name in ('fsdp', 'data parallel'))
  assert whole / 8 <= of_each < 1.02 * whole / 8


def test_instructions_in_loops_count_once_per_iteration():
  def function(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

  text = jax.jit(function).lower(jnp.ones((3, 4)), jnp.ones((7, 4, 4))).compile().as_text()
  assert program_text.products(program_text.instructions(text)) == collections.Counter({'f32 x f32 -> f32': 7})


def test_bytes_and_kinds_of_collectives_are_read_from_text():
  text = '''HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[], bf16[4,8]{1,0}) parameter(0)
  %w = bf16[4,8]{1,0} get-tuple-element(%p), index=1
  %gathered = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%w), replica_groups={{0,1,2,3}}, dimensions={0}
  %started = (bf16[4,8]{1,0}, bf16[4,8]{1,0}) all-reduce-start(%w), to_apply=%add
  %done = bf16[4,8]{1,0} all-reduce-done(%started)
}

ENTRY %main (q: bf16[4,8]) -> bf16[4,8] {
  %q = bf16[4,8]{1,0} parameter(0)
  %l = (s32[], bf16[4,8]{1,0}) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %both = (f32[2]{0}, f32[]) all-reduce(%x, %y), to_apply=%add
}
'''
  assert program_text.collectives(program_text.instructions(text)) == {
      'all-gather': {'count': 5, 'bytes': 5 * 16 * 8 * 2}, 'all-reduce': {'count': 6, 'bytes': 5 * 4 * 8 * 2 + 12}}


def test_cycles_add_compiler_estimates_and_kernel_bundles():
  text = '''HloModule m
%body (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %k = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"bundles":"700"
}}, metadata={op_name="a"}, backend_config={"custom_call_config":{}}
  ROOT %g = f32[8]{0} fusion(%k), kind=kLoop, calls=%f, frontend_attributes={kernel_metadata={
"bundles":"700"
}}, backend_config={"estimated_cycles":"40"}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %w = f32[8]{0} while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %h = f32[8]{0} fusion(%w), kind=kLoop, calls=%f, backend_config={"estimated_cycles":"5"}
}
'''
  assert program_text.cycles(program_text.instructions(text)) == 3 * (700 + 40) + 5
