"""Tests the choice of attention's form, and cuDNN's arguments: equal to the tiles in values and gradients."""

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
from trax_hourglass.ops import remat



@pytest.fixture
def on_gpu(monkeypatch):
  """Traces functions as for a GPU; nothing is compiled."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  jax.clear_caches()  # Functions traced earlier would not look up the backend again.
  yield
  jax.clear_caches()


def as_by_cudnn(function, *arrays):
  """Calls attention with the form 'cudnn', whose formula goes through XLA here."""
  with mock.patch.object(attention, '_taken', lambda *_: 'cudnn'):
    return function(*arrays)


def assert_cudnn_equals_tiles(function, arrays, tolerance):
  by_cudnn = lambda *arrays: as_by_cudnn(function, *arrays)
  results = [[f(*arrays), *gradients(f, arrays)] for f in (function, by_cudnn)]
  for expected, got in zip(*results):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    expected, got = (x.astype(jnp.float32) for x in (expected, got))
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * max(1.0, float(jnp.abs(expected).max())))


@settings(max_examples=sampling.examples(5, 30))
@given(groups=st.integers(1, 23), geometry=st.sampled_from(GEOMETRIES))
def test_cudnn_arguments_give_the_result_of_the_tiles(groups, geometry):
  """Tests the bias, its mask and its gradient; cuDNN itself runs on GPUs only."""
  assert_cudnn_equals_tiles(attention.relative_attention, inputs(groups, *geometry)[0], 1e-5)


def test_bfloat16_and_no_positions():
  arrays, _ = inputs(23, 1, 3)
  # Three roundings to 8 bits, of scores, weights and results.
  assert_cudnn_equals_tiles(attention.relative_attention, [x.astype(jnp.bfloat16) for x in arrays], 0.03)
  assert_cudnn_equals_tiles(attention.rotary_attention, inputs(23, 1, 1)[0][:3], 1e-5)


@pytest.mark.parametrize('form', [None, *attention.FORMS, *attention.DELETED])
def test_a_model_gives_equal_results_with_any_form(form):
  tokens = np.arange(12)[None] % 7
  model = th.Hourglass(vocab_size=7, hierarchy='0@1 1@3 0@1', d_model=8, d_ff=8, n_heads=2, mode='eval',
                       attention_form=form)
  model.init(jax.ShapeDtypeStruct(tokens.shape, np.int32))
  with attention.recording() as used:
    model.pure_fn(tokens, model.weights, model.state, jax.random.PRNGKey(0))
  assert used == {'tiles'}


@pytest.mark.parametrize('form, said', [
    (None, ''), ('tiles', ''),
    ('tpu', "attention_form 'tiles' takes the place of 'tpu', which is for TPUs\n"),
    ('cudnn', "attention_form 'tiles' takes the place of 'cudnn', which is for GPUs\n"),
    ('pallas', "attention_form is 'pallas', which was removed: 'tiles' takes its place\n")])
def test_an_unsupported_form_is_reported_once(form, said, capsys):
  attention._say_once.cache_clear()
  arrays, _ = inputs(2, 1, 1)
  for _ in range(2):
    attention.relative_attention(*arrays, form=form)
  assert capsys.readouterr().err == said


@pytest.mark.parametrize('width, rate, said', [
    (8, 0.0, ''), (8, 0.1, "'cudnn', which has no dropout of weights in JAX"),
    (5, 0.0, "'cudnn', which takes heads of multiples of 8 up to 128 and not of 5")])
def test_cudnn_takes_bfloat16_of_some_widths_without_dropout(width, rate, said, on_gpu, monkeypatch, capsys):
  attention._say_once.cache_clear()
  asked = []
  monkeypatch.setattr(jax.nn, 'dot_product_attention',
                      lambda q, k, v, **options: asked.append(options['implementation']) or q)
  arrays = [jnp.ones((*shape, 2, width), jnp.bfloat16) for shape in ((1, 6),) * 4 + ((),) * 2]
  key = jax.random.PRNGKey(0)
  attention.relative_attention(*arrays, rate=rate, key=key, form='cudnn')
  assert asked == ([] if said else ['cudnn'])
  assert said in capsys.readouterr().err
  # Initialisation and evaluation are always in float32, so no warning is due.
  attention._say_once.cache_clear()
  attention.relative_attention(*(x.astype(jnp.float32) for x in arrays), form='cudnn')
  assert asked == ([] if said else ['cudnn'])
  assert not capsys.readouterr().err


def test_cudnn_results_are_kept_for_the_backward_pass(on_gpu, monkeypatch):
  """Traces for a GPU; nothing is compiled."""
  monkeypatch.setattr(fused_attention_stablehlo, 'check_cudnn_version', lambda: 91100)
  monkeypatch.setattr(fused_attention_stablehlo, 'check_compute_capability', lambda capability: True)
  monkeypatch.setattr(fused_attention_stablehlo, 'is_cuda_compute_capability_equal', lambda capability: False)
  arrays = [jnp.ones((*shape, 2, 8), jnp.bfloat16) for shape in ((1, 6),) * 4 + ((),) * 2]
  attend = lambda *arrays: attention.relative_attention(*arrays, form='cudnn')
  n_kernels = {}
  for choice in remat.CHOICES:
    body = remat.made_again(lambda q, _: (attend(q, *arrays[1:]), None), choice)
    program = str(jax.make_jaxpr(jax.grad(lambda q, body=body: body(q, None)[0].astype(jnp.float32).sum()))(arrays[0]))
    n_kernels[choice] = program.count('dot_product_attention_fwd_wrapper[')
  assert n_kernels == {'none': 1, 'elementwise': 1, 'products': 1, 'blocks': 2}


def test_unknown_forms_are_refused():
  with pytest.raises(ValueError, match="attention_form is 'triton': choose one of 'tiles', 'tpu', 'cudnn'"):
    th.Hourglass(attention_form='triton')
