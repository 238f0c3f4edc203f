"""Checks that a model does not see the future."""

import numpy as np

from tests.helpers import pairs


def assert_causal(model, length, forward=None):
  """Changes all tokens from position i on, for every i. Logits up to i must stay, and the next one must change.

  One row of a batch for each i, so that the model is compiled once. `forward` is (weights, tokens) -> logits, None for
  what the model itself gives.
  """
  forward = forward or pairs.forward(model)
  x = pairs.tokens(length, batch=1)
  changed = np.repeat(x, length, axis=0)
  for i in range(length):
    changed[i, i:] = (changed[i, i:] + 1 + i % (pairs.VOCAB - 1)) % pairs.VOCAB
  logits = np.asarray(forward(model.weights, np.concatenate([x, changed])))
  for i in range(length):
    np.testing.assert_allclose(logits[1 + i, :i + 1], logits[0, :i + 1], rtol=0, atol=1e-4, err_msg=f'token {i} leaks')
    if i + 1 < length:
      assert np.abs(logits[1 + i, i + 1] - logits[0, i + 1]).max() > 1e-3, f'token {i} has no effect'
