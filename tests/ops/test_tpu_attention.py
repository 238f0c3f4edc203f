"""Tests the TPU kernels of attention: interpreted, they equal the tiles in values and gradients; Mosaic lowers them."""

import contextlib
import functools
import re

from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import sampling
from tests.helpers.attention_inputs import GEOMETRIES
from tests.helpers.attention_inputs import gradients
from tests.helpers.attention_inputs import inputs

from trax_hourglass.ops import attention
from trax_hourglass.ops import tpu_attention
from trax_hourglass.ops import tpu_layout
from trax_hourglass.ops import tpu_tile

LANES = 8


@contextlib.contextmanager
def interpreted(block):
  """Sets small strips and blocks, so that short sequences take many, and allows any form."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tpu_tile, 'STRIP', LANES)
    patch.setattr(tpu_tile, 'LANES', LANES)
    patch.setattr(tpu_layout, '_BLOCKS', (block,))
    patch.setattr(attention, '_taken', lambda form, *_: form)
    tpu_attention.attend.clear_cache()
    yield
  tpu_attention.attend.clear_cache()


def assert_equals_tiles(function, arrays, block, rate=0.0, tolerance=1e-5):
  with interpreted(block):
    both = [functools.partial(function, rate=rate, key=jax.random.PRNGKey(5), form=form) for form in ('tiles', 'tpu')]
    results = [jax.jit(lambda *a, f=f: [f(*a), *gradients(f, a)])(*arrays) for f in both]
  for expected, got in zip(*results):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    expected, got = (x.astype(jnp.float32) for x in (expected, got))
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * max(1.0, float(jnp.abs(expected).max())))


# One block; blocks of which the last is cut; strips in pairs, and three at once. In the examples the last block has one
# strip of a pair, and two of three.
@settings(max_examples=sampling.examples(4, 40))
@given(groups=st.sampled_from([1, 7, 16, 45]), geometry=st.sampled_from(GEOMETRIES), rate=st.sampled_from([0.0, 0.3]),
       block=st.sampled_from([8, 16, 24]))
@example(groups=37, geometry=GEOMETRIES[0], rate=0.3, block=16)
@example(groups=37, geometry=GEOMETRIES[-1], rate=0.0, block=24)
def test_interpreted_kernels_equal_the_tiles(groups, geometry, rate, block):
  assert_equals_tiles(attention.relative_attention, inputs(groups, *geometry)[0], block, rate)


@pytest.mark.parametrize('n_heads, width', [(3, 3), (1, 11)])
def test_heads_of_any_width_and_number_share_the_lanes(n_heads, width):
  """Tests two heads in a register, of which one stays half empty, and one head in two registers."""
  random = np.random.RandomState(3)
  shapes = [(2, 21, n_heads, width)] * 3 + [(1, 21, n_heads, width)] + [(n_heads, width)] * 2
  arrays = [jnp.asarray(random.randn(*shape), jnp.float32) for shape in shapes]
  assert_equals_tiles(attention.relative_attention, arrays, 16, 0.2)


@pytest.mark.parametrize('window', sampling.some([5, 17], [1, 40]))
def test_a_window_equals_local_attention(window):
  arrays, _ = inputs(37, 1, 1)
  arrays[3] = arrays[3][0, -window:]
  assert_equals_tiles(attention.local_attention, arrays, 8, 0.3)


def test_without_relative_positions():
  assert_equals_tiles(attention.rotary_attention, inputs(37, 1, 1)[0][:3], 8, 0.3)


def test_bfloat16_is_close_to_float32():
  # Three roundings to 8 bits, of scores, weights and results.
  assert_equals_tiles(attention.relative_attention, [x.astype(jnp.bfloat16) for x in inputs(23, 1, 3)[0]], 16,
                      tolerance=0.03)


def traced_for_tpu(n_groups, geometry, width, dtype, kind='TPU v5 lite'):
  """Traces the gradient of attention of two sequences for a TPU, without one."""
  queries_per_group, keys_per_group = geometry
  q, k, e, bias = (jax.ShapeDtypeStruct((*shape, 4, width), dtype) for shape in (
      (2, n_groups * queries_per_group), (2, n_groups * keys_per_group),
      (queries_per_group, n_groups * keys_per_group), ()))
  function = lambda *arrays: attention.relative_attention(
      *arrays, rate=0.1, key=jnp.zeros(2, jnp.uint32)).astype(jnp.float32).sum()
  device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=1, platform='tpu')
  mesh = jax.sharding.AbstractMesh((1,), ('x',), abstract_device=device)
  with jax.sharding.use_abstract_mesh(mesh), attention.recording() as used:
    return jax.jit(jax.grad(function, argnums=range(6))).trace(q, k, k, e, bias, bias), used


@pytest.mark.parametrize('n_groups, geometry, width, dtype', [
    (683, (1, 1), 64, jnp.bfloat16), (130, (1, 3), 96, jnp.bfloat16), (130, (3, 1), 64, jnp.float32)])
def test_kernels_lower_for_a_tpu(n_groups, geometry, width, dtype):
  """Lowering needs no TPU and no compiler for it."""
  traced, used = traced_for_tpu(n_groups, geometry, width, dtype)
  assert used == {'tpu'}
  assert traced.lower(lowering_platforms=('tpu',)).as_text().count('@tpu_custom_call') == 2  # Forward and backward.


@pytest.mark.parametrize('n_groups, kind, reason', [
    (20, 'TPU v4', 'needs a TPU v5e or later, not a TPU v4'),
    (300_000, 'TPU v6e', r'needs \d{3,} MiB of VMEM for 300,000 keys and has 89')])
def test_unsupported_cases_fall_back_to_the_tiles(n_groups, kind, reason, capsys):
  attention._say_once.cache_clear()
  _, used = traced_for_tpu(n_groups, (1, 1), 64, jnp.bfloat16, kind)
  assert used == {'tiles'}
  assert re.search(f"'tiles' takes the place of 'tpu', which {reason}", capsys.readouterr().err)


def test_vmem_estimate_covers_what_the_kernel_allocates(monkeypatch):
  """Arguments and results count twice, since those of the next iteration are read during this one."""
  asked = []
  call = tpu_attention.pl.pallas_call
  def pallas_call(body, grid_spec, out_shape, **options):
    size = lambda spec, dtype: np.prod([n or 1 for n in spec.block_shape]) * jnp.dtype(dtype).itemsize
    def run(*arrays):
      of = zip([*grid_spec.in_specs, *grid_spec.out_specs], [*arrays[grid_spec.num_scalar_prefetch:], *out_shape])
      kept = sum(np.prod(one.shape) * jnp.dtype(one.dtype).itemsize for one in grid_spec.scratch_shapes)
      asked.append(2 * sum(size(spec, x.dtype) for spec, x in of) + kept)
      return call(body, grid_spec=grid_spec, out_shape=out_shape, **options)(*arrays)
    return run
  monkeypatch.setattr(tpu_attention.pl, 'pallas_call', pallas_call)
  with interpreted(16):
    for geometry in GEOMETRIES:
      asked.clear()
      arrays, _ = inputs(45, *geometry)
      attend = functools.partial(attention.relative_attention, rate=0.3, key=jax.random.PRNGKey(5), form='tpu')
      jax.make_jaxpr(lambda *a: gradients(attend, a))(*arrays)
      estimate = tpu_layout.Layout.of(*arrays[:2], arrays[3], geometry[0], 0.3).vmem_bytes(jnp.float32)
      assert .8 * max(asked) < estimate < 1.25 * max(asked)


def test_chosen_block_sizes_waste_little():
  """A sequence one token longer than four blocks does not take a fifth whole block."""
  def layout(n_groups):
    shape = jax.ShapeDtypeStruct((1, n_groups, 8, 64), jnp.bfloat16)
    return tpu_layout.Layout.of(shape, shape, None, 1, 0.1)
  assert layout(2048).block == 512 and layout(100).block == 128
  assert sum(layout(2049).bundles) < 1.3 * sum(layout(2048).bundles)
