"""Tests attention maps: equal to the model's attention weights, causal, rows of sum 1, in the order of the blocks."""

import collections
import functools

import jax
import numpy as np
from trax import shapes

from tests.helpers import pairs
import trax_hourglass as th
from trax_hourglass.inference import attention_maps
from trax_hourglass.layers import spec as spec_lib


def test_maps_equal_the_attention_of_the_blocks():
  make = functools.partial(th.Hourglass, pairs.VOCAB, '1@1 2@3 1@1', pairs.D_MODEL, pairs.D_FF, pairs.N_HEADS)
  model = pairs.initialise(make(mode='eval'), 11)
  tokens = np.random.RandomState(0).randint(0, pairs.VOCAB, (2, 11))
  maps = attention_maps.attention_maps(make, model.weights, tokens)
  assert {factor: [x.shape for x in of_factor] for factor, of_factor in maps.items()} == {
      1: [(2, pairs.N_HEADS, 12, 12)] * 2, 3: [(2, pairs.N_HEADS, 4, 4)] * 2}
  for x in maps[1] + maps[3]:
    np.testing.assert_allclose(x.sum(axis=-1), 1, rtol=1e-5)
    assert (x[:, :, ~np.tril(np.ones(x.shape[2:], bool))] == 0).all()
  assert not np.allclose(maps[3][0], maps[3][1])


def test_maps_reproduce_the_attention_output():
  """Weights times values, through the output projection, equal the layer's output."""
  seen = collections.defaultdict(list)
  spec = spec_lib.BlockSpec(12, 10, 3, 0.0, None, None, 'none', 'eval', 1, None)
  layer = attention_maps.Watched(spec, 2, seen)
  random = np.random.RandomState(0)
  inputs = [random.randn(*shape).astype(np.float32) for shape in ((2, 7, 12), (3, 4), (3, 4))]
  layer.init(shapes.signature(inputs))
  out = np.asarray(layer(inputs))
  jax.effects_barrier()
  (value, value_bias), (output, output_bias) = layer.weights[3:]
  values = (inputs[0] @ value + value_bias).reshape(2, 7, 3, 4)
  attended = np.einsum('bhqk,bkhe->bqhe', seen[2][0], values).reshape(2, 7, 12)
  np.testing.assert_allclose(out, attended @ output + output_bias, rtol=1e-4, atol=1e-5)
