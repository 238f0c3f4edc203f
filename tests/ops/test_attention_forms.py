"""Attention's forms for GPUs: interpreted they equal the tiles, in values and gradients, and Triton takes them."""

import functools
from unittest import mock

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
from jax._src.cudnn import fused_attention_stablehlo
import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import sampling
from tests.helpers.attention_inputs import GEOMETRIES
from tests.helpers.attention_inputs import gradients
from tests.helpers.attention_inputs import inputs

import trax_hourglass as th
from trax_hourglass.ops import attention
from trax_hourglass.ops import pallas_attention
from trax_hourglass.ops import remat


@pytest.fixture(scope='module', autouse=True)
def smallest_tiles():
  """Lets short sequences take many tiles, of sizes that differ."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pallas_attention, '_TILE_QUERIES', 32)
    patch.setattr(pallas_attention, '_TILE_KEYS', 16)
    yield


def assert_form_equals_tiles(form, arrays, rate, tolerance):
  results = []
  for one in ('tiles', form):
    function = functools.partial(attention.relative_attention, rate=rate, key=jax.random.PRNGKey(5), form=one)
    results.append([function(*arrays), *gradients(function, arrays)])
  for expected, got in zip(*results):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    expected, got = (x.astype(jnp.float32) for x in (expected, got))
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * max(1.0, float(jnp.abs(expected).max())))


# Interpreted kernels compile for seconds, so lengths are few; 1 group has one tile with more padding than numbers.
@settings(max_examples=sampling.examples(4, 20))
@given(groups=st.sampled_from([1, 11, 23]), geometry=st.sampled_from(GEOMETRIES), rate=st.sampled_from([0.0, 0.3]))
def test_interpreted_kernels_equal_the_tiles(groups, geometry, rate):
  arrays, _ = inputs(groups, *geometry)
  assert_form_equals_tiles('pallas', arrays, rate, 1e-5)


@settings(max_examples=sampling.examples(5, 30))
@given(groups=st.integers(1, 23), geometry=st.sampled_from(GEOMETRIES))
def test_what_cudnn_is_given_equals_the_tiles(groups, geometry):
  """The bias, its mask and its gradient; cuDNN itself is on GPUs only."""
  arrays, _ = inputs(groups, *geometry)
  assert_form_equals_tiles('cudnn', arrays, 0.0, 1e-5)


@pytest.mark.parametrize('form', ['pallas', 'cudnn'])
def test_bfloat16_and_no_positions(form):
  arrays, _ = inputs(23, 1, 3)
  # Three roundings to 8 bits, of scores, weights and results.
  assert_form_equals_tiles(form, [x.astype(jnp.bfloat16) for x in arrays], 0.0, 0.03)
  q, k, v = inputs(23, 1, 1)[0][:3]
  tiles, other = (attention.rotary_attention(q, k, v, form=one) for one in ('tiles', form))
  np.testing.assert_allclose(other, tiles, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('geometry, width, rate, dtype',
                         [((1, 1), 64, 0.1, jnp.bfloat16), ((1, 3), 96, 0.0, jnp.bfloat16),
                                                          ((3, 1), 64, 0.1, jnp.float32)])
def test_kernels_lower_to_triton_for_a_gpu(geometry, width, rate, dtype):
  """No GPU is needed to make the program; whether it is fast only one can tell."""
  queries_per_group, keys_per_group = geometry
  n_groups, shape = 682, (4, width)
  q, k, e = (jax.ShapeDtypeStruct((n, m, *shape), dtype)
             for n, m in ((2, n_groups * queries_per_group), (2, n_groups * keys_per_group),
                          (queries_per_group, n_groups * keys_per_group)))
  bias = jax.ShapeDtypeStruct(shape, dtype)
  function = lambda *arrays: attention.relative_attention(
      *arrays, rate=rate, key=jnp.zeros(2, jnp.uint32), form='pallas').astype(jnp.float32).sum()
  gpu = jax.sharding.AbstractDevice(device_kind='NVIDIA H100', num_cores=132, platform='gpu')
  mesh = jax.sharding.AbstractMesh((1,), ('x',), abstract_device=gpu)
  with mock.patch.object(jax, 'default_backend', lambda: 'gpu'), jax.sharding.use_abstract_mesh(mesh):
    lowered = jax.jit(jax.grad(function, argnums=range(6))).trace(q, k, k, e, bias,
                                                                  bias).lower(lowering_platforms=('cuda',))
  assert lowered.as_text().count('__gpu$xla.gpu.triton') == 3  # Forward, and for the gradients of queries and of keys.


def test_a_model_takes_its_form():
  tokens = np.arange(12)[None] % 7
  weights, outputs = None, []
  for form in attention.FORMS:
    model = th.Hourglass(vocab_size=7, hierarchy='0@1 1@3 0@1', d_model=8, d_ff=8, n_heads=2, mode='eval',
                         attention_form=form)
    model.init(jax.ShapeDtypeStruct(tokens.shape, np.int32))
    weights = weights or model.weights
    outputs.append(model.pure_fn(tokens, weights, model.state, jax.random.PRNGKey(0))[0])
  for output in outputs[1:]:
    np.testing.assert_allclose(output, outputs[0], atol=1e-5)


def test_float32_goes_by_the_tiles_where_cudnn_would_be_asked(monkeypatch):
  """Initialisation and evaluation are in float32, which cuDNN's attention on a GPU does not take."""
  arrays, _ = inputs(5, 1, 3)
  tiles = attention.relative_attention(*arrays, form='tiles')
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  jax.clear_caches()  # Compiled functions do not ask for the backend again.
  asked = []
  monkeypatch.setattr(jax.nn, 'dot_product_attention',
                      lambda q, k, v, **options: asked.append(options['implementation']) or q)
  np.testing.assert_allclose(attention.relative_attention(*arrays, form='cudnn'), tiles, rtol=1e-5, atol=1e-6)
  assert not asked
  eight_wide = [jnp.pad(x, (*[(0, 0)] * (x.ndim - 1), (0, -x.shape[-1] % 8))).astype(jnp.bfloat16) for x in arrays]
  attention.relative_attention(*eight_wide, form='cudnn')
  assert asked == ['cudnn']


def test_what_cudnn_comes_to_is_not_made_again(monkeypatch):
  """As JAX traces it for a GPU; nothing is compiled."""
  monkeypatch.setattr(fused_attention_stablehlo, 'check_cudnn_version', lambda: 91100)
  monkeypatch.setattr(fused_attention_stablehlo, 'check_compute_capability', lambda capability: True)
  monkeypatch.setattr(fused_attention_stablehlo, 'is_cuda_compute_capability_equal', lambda capability: False)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  jax.clear_caches()
  arrays = [jnp.ones((*shape, 2, 8), jnp.bfloat16) for shape in ((1, 6),) * 4 + ((),) * 2]
  attend = lambda *arrays: attention.relative_attention(*arrays, form='cudnn')
  n_kernels = {}
  for choice in remat.CHOICES:
    body = remat.recomputed(lambda q, attend=attend: attend(q, *arrays[1:]), choice)
    program = str(jax.make_jaxpr(jax.grad(lambda q, body=body: body(q).astype(jnp.float32).sum()))(arrays[0]))
    n_kernels[choice] = program.count('dot_product_attention_fwd_wrapper[')
  jax.clear_caches()
  assert n_kernels == {'none': 1, 'elementwise': 1, 'products': 1, 'blocks': 2}


def test_mistakes_name_the_remedy(monkeypatch):
  with pytest.raises(ValueError, match="attention_form is 'triton': choose one of 'tiles', 'pallas', 'cudnn'"):
    th.Hourglass(attention_form='triton')
  arrays, _ = inputs(2, 1, 1)
  with pytest.raises(ValueError, match='cannot drop attention weights; set Hourglass.dropout = 0.0'):
    attention.relative_attention(*arrays, rate=0.1, key=jax.random.PRNGKey(0), form='cudnn')
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  jax.clear_caches()
  with pytest.raises(ValueError, match="heads are 5 wide: it takes multiples of 8; set Hourglass.attention_form to "
                                       "'tiles'"):
    attention.relative_attention(*(x.astype(jnp.bfloat16) for x in arrays), form='cudnn')
  def refuse(*_, **__):
    raise NotImplementedError('no such GPU')
  monkeypatch.setattr(jax.nn, 'dot_product_attention', refuse)
  wide = [jnp.ones((*shape, 2, 8), jnp.bfloat16) for shape in ((1, 6),) * 4 + ((),) * 2]
  with pytest.raises(ValueError, match=r"'cudnn', which refuses this \(no such GPU\): set Hourglass.attention_form"):
    attention.relative_attention(*wide, form='cudnn')
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  with pytest.raises(ValueError, match="that is for GPUs; set Hourglass.attention_form = 'tiles'"):
    attention.relative_attention(*arrays, form='pallas')
