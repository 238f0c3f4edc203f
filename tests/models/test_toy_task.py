"""Tests the task of appendix A.1 of the paper, for which an Hourglass needs vanilla layers.

Sequences are `A#AC#CD#D...`: a random letter, `#`, the same letter. Two of three tokens can be known, so the best
accuracy is 2/3 and one in 26 of the rest. Without vanilla layers the tokens of a group of three are predicted
independently of each other.
"""

import jax
import numpy as np
import pytest
from trax import layers as tl
from trax import optimizers
from trax import shapes

from tests.helpers import sampling
import trax_hourglass as th
from trax_hourglass.training import step

LETTERS, LENGTH, BATCH, STEPS = 26, 24, 32, 250


def batch(seed):
  letters = np.random.RandomState(seed).randint(0, LETTERS, (BATCH, LENGTH // 3))
  tokens = np.stack([letters, np.full_like(letters, LETTERS), letters], axis=-1).reshape(BATCH, LENGTH).astype(np.int32)
  return tokens, tokens, np.ones(tokens.shape, np.float32)


def accuracy(hierarchy):
  """Returns the accuracy on new sequences after training."""
  model = th.Hourglass(LETTERS + 1, hierarchy, d_model=32, d_ff=64, n_heads=2, dropout=0.0,
                       shortening=th.ShortenByAverage, upsampling=th.UpsampleByRepeat)
  with_loss = tl.Serial(model, tl.WeightedCategoryCrossEntropy())
  with_loss.init(shapes.signature(batch(0)), rng=jax.random.PRNGKey(0))
  optimizer = optimizers.Adam(weight_decay_rate=0.0)
  optimizer.tree_init(with_loss.weights)
  trainer = step.Trainer(with_loss, optimizer)
  for i in range(STEPS):
    trainer.one_step(batch(i), jax.random.PRNGKey(i), i, 1e-2 * min(1, i / 20))
  tokens = batch(STEPS)[0]
  logits, _ = jax.jit(model.pure_fn)(tokens, model.weights, model.state, jax.random.PRNGKey(0))
  return float((np.asarray(logits).argmax(axis=-1) == tokens).mean())


@pytest.mark.parametrize('hierarchy', sampling.some(['1@1 1@3 0@1'], ['1@1 1@3 0@1', '0@1 1@3 1@1']))
def test_one_vanilla_layer_learns_the_task(hierarchy):
  assert accuracy(hierarchy) > 0.60


def test_without_vanilla_layers_it_cannot_be_learned():
  assert accuracy('0@1 2@3 0@1') <= 0.52
