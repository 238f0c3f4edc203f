"""Pairs every shortening and upsampling that both Trax and we have, and builds models of them."""

import functools

import jax
import numpy as np
import trax
from trax import layers as tl
from trax import shapes

import trax_hourglass as th

VOCAB, D_MODEL, D_FF, N_HEADS = 11, 14, 10, 7

# Ours, Trax's, and the sub-layer Trax takes for the query.
SHORTENINGS = {
    'average': (th.ShortenByAverage, tl.AveragePooling, None),
    'linear': (th.ShortenByLinear, tl.LinearPooling, None),
    'attention_average': (th.ShortenByAttention, tl.AttentionResampling, tl.AveragePooling),
    'attention_linear': (functools.partial(th.ShortenByAttention, query=th.ShortenByLinear),
                         tl.AttentionResampling, tl.LinearPooling),
}
UPSAMPLINGS = {
    'nothing': (th.UpsampleByNothing, tl.NoUpsampling, None),
    'repeat': (th.UpsampleByRepeat, tl.NaiveUpsampling, None),
    'linear': (th.UpsampleByLinear, tl.LinearUpsampling, None),
    'attention_x': (functools.partial(th.UpsampleByAttention, added=th.UpsampleByNothing),
                    tl.AttentionResampling, tl.NoUpsampling),
    'attention_repeat': (functools.partial(th.UpsampleByAttention, added=th.UpsampleByRepeat),
                         tl.AttentionResampling, tl.NaiveUpsampling),
    'attention_linear': (th.UpsampleByAttention, tl.AttentionResampling, tl.LinearUpsampling),
}
ALL = [(s, u) for s in SHORTENINGS for u in UPSAMPLINGS]


def ours(hierarchy, shortening='attention_average', upsampling='attention_linear', mode='eval', **options):
  """Returns our tiny model, not initialised."""
  options = {'vocab_size': VOCAB, 'd_model': D_MODEL, 'd_ff': D_FF, 'n_heads': N_HEADS, **options}
  return th.Hourglass(hierarchy=hierarchy, mode=mode, shortening=SHORTENINGS[shortening][0],
                      upsampling=UPSAMPLINGS[upsampling][0], **options)


def theirs(hierarchy, shortening='attention_average', upsampling='attention_linear', mode='eval', **options):
  """Returns Trax's model of the same hierarchy in our notation, not initialised."""
  first, *inner, last = hierarchy.split()
  return trax.models.HourglassLM(
      VOCAB, D_MODEL, D_FF, vanilla_layers=tuple(int(part.split('@')[0]) for part in (first, last)),
      hierarchy=' '.join(inner), n_heads=N_HEADS, mode=mode,
      downsampling_fn=SHORTENINGS[shortening][1], attention_downsampling_fn=SHORTENINGS[shortening][2],
      upsampling_fn=UPSAMPLINGS[upsampling][1], attention_upsampling_fn=UPSAMPLINGS[upsampling][2], **options)


def tokens(length, batch=2, seed=0):
  """Returns random tokens (batch, length)."""
  return np.random.RandomState(seed).randint(0, VOCAB, (batch, length)).astype(np.int32)


def initialise(model, length):
  """Initialises a model and moves all weights far from their initial values, biases of 1e-6 among them."""
  model.init(shapes.signature(tokens(length)))
  random = np.random.RandomState(1)
  model.weights = jax.tree.map(lambda w: (w + 0.3 * random.randn(*w.shape)).astype(np.float32), model.weights)
  return model


def forward(model):
  """Returns the compiled function (weights, tokens) -> logits."""
  return jax.jit(lambda weights, x: model.pure_fn(x, weights, model.state, jax.random.PRNGKey(0))[0])
