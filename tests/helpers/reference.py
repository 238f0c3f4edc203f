"""Defines attention slowly and plainly: one loop per letter, NumPy only.

Letters as in attention.py: B batch, Q queries, K keys, H heads, E head width, D model width.
"""

import numpy as np


def sinusoid(position, d_model):
  """Returns one row of the position table."""
  angles = [position / 10000 ** (i / d_model) for i in range(0, d_model, 2)]
  return np.array([np.sin(a) for a in angles] + [np.cos(a) for a in angles])


def relative_attention(q, k, v, embed, context_bias, location_bias, queries_per_group, keys_per_group, keep=None,
                       rate=0.0):
  """Computes attention by its definition.

  Args:
    q: (B, Q, H, E).
    k: (B, K, H, E).
    v: (B, K, H, E).
    embed: function distance -> (H, E).
    context_bias: (H, E).
    location_bias: (H, E).
    queries_per_group: fine queries per coarse key, or 1.
    keys_per_group: fine keys per coarse query, or 1.
    keep: dropout mask (H, B, Q, K) or None.
    rate: dropout rate of the mask.

  Returns:
    (B, Q, H, E).
  """
  out = np.zeros(q.shape)
  for b in range(q.shape[0]):
    for i in range(q.shape[1]):
      for h in range(q.shape[2]):
        visible = [j for j in range(k.shape[1]) if j // keys_per_group <= i // queries_per_group]
        # Positions of query and key, both counted in vectors of the finer sequence.
        distances = [j * queries_per_group - i * keys_per_group for j in visible]
        scores = np.array([(q[b, i, h] + context_bias[h]) @ k[b, j, h] + (q[b, i, h] + location_bias[h]) @ embed(r)[h]
                           for j, r in zip(visible, distances)]) / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        if keep is not None:
          weights = np.where(keep[h, b, i, visible], weights / (1 - rate), 0)
        out[b, i, h] = weights @ v[b, visible, h]
  return out
