"""Tests the counted FLOPs against a count by hand."""

import functools

from tests.helpers import pairs
import pytest
from trax import shapes

import trax_hourglass as th
from trax_hourglass.models import flops

D, F, V, BATCH = pairs.D_MODEL, pairs.D_FF, pairs.VOCAB, 5


def visible(n_groups, queries=1, keys=1):
  return queries * keys * n_groups * (n_groups + 1) // 2


def block(n_queries, n_keys, n_visible, n_distances, n_products=3):
  """Counts the FLOPs of a block: projections, attention, feed-forward; distances are projected once per batch."""
  of_a_sequence = (2 * n_queries + 2 * n_keys) * D * D + n_products * D * n_visible + 2 * n_queries * D * F
  return 2 * (BATCH * of_a_sequence + n_distances * D * D)


@pytest.mark.parametrize(
    'options, length, expected',
    [
        ({'hierarchy': '3@1'}, 9, 3 * block(9, 9, visible(9), 9)),
        # Padded to 12; a table of distances for each of the 3 positions that an upsampled query has within its group.
        ({'hierarchy': '2@1 5@3 1@1'}, 10, 3 * block(12, 12, visible(12), 12) + 5 * block(4, 4, visible(4), 4) +
         block(4, 12, visible(4, keys=3), 12) + block(12, 4, visible(4, queries=3), 12) + BATCH * 2 * 12 * D * D),
        ({'hierarchy': '1@1 1@2 1@1', 'shortening': 'average', 'upsampling': 'linear'
         }, 6, 2 * block(6, 6, visible(6), 6) + block(3, 3, visible(3), 3) + BATCH * 2 * 6 * D * D),
        ({'hierarchy': '2@1', 'vanilla_attention': th.CausalRotaryAttention
         }, 7, 2 * block(7, 7, visible(7), 0, n_products=2)),
        # Of 11 queries, 8 see a whole window of 4; 4 distances are projected.
        ({'hierarchy': '2@1', 'vanilla_attention': functools.partial(th.CausalLocalAttention, window=4)
         }, 11, 2 * block(11, 11, 1 + 2 + 3 + 8 * 4, 4)),
        ({'hierarchy': '2@1', 'vanilla_attention': functools.partial(th.CausalLocalAttention, window=40)
         }, 11, 2 * block(11, 11, visible(11), 11)),
    ])
def test_flops_equal_a_count_by_hand(options, length, expected):
  model = pairs.ours(**options)
  model.init(shapes.signature(pairs.tokens(length, batch=BATCH)))
  expected += BATCH * 2 * length * D * V
  assert flops.forward(model, BATCH, length) == expected
  assert flops.training_step(model, BATCH, length) == 3 * expected
