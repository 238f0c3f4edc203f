"""Calls models of mode 'predict' token by token."""

import jax
import numpy as np

from tests.helpers import pairs


def shifted(x):
  """Returns the inputs of mode 'predict' for tokens (B, L): the start token, then all but the last."""
  return np.pad(x, ((0, 0), (1, 0)))[:, :-1].astype(np.int32)


def predicting(evaluated, hierarchy, *args, max_length, **options):
  """Returns the model of mode 'predict' with the same weights."""
  model = pairs.ours(hierarchy, *args, mode='predict', max_length=max_length, **options)
  model.weights = evaluated.weights
  return model


def compiled(model):
  """Returns the compiled function (weights, state, tokens) -> (logits, state)."""
  return jax.jit(lambda weights, state, x: model.pure_fn(x, weights, state, jax.random.PRNGKey(0)))


def decode(function, model, x, n_prompt, state=None):
  """Returns logits of all positions: the first `n_prompt` in one call, the rest one by one."""
  state = model.start(len(x)) if state is None else state
  logits, inputs = [], shifted(x)
  for start, end in [(0, n_prompt), *((i, i + 1) for i in range(n_prompt, x.shape[1]))]:
    out, state = function(model.weights, state, inputs[:, start:end])
    logits.append(out)
  return np.concatenate(logits, axis=1)
