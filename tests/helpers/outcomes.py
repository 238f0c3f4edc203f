"""Compares two runs, bit by bit, or up to rounding where devices differ.

Sums over devices are added in another order: losses differ by 1e-5 at most, slots, as one long vector, by 1e-4 of its
length, weights by 2e-2. Softmax does not depend on the biases of keys, so their gradients are rounding and nothing
else, which Adam makes as large as any other: they differ altogether.
"""

import pathlib

import jax
import numpy as np

from tests.helpers import runs
from trax_hourglass.runtime import sharding
from trax_hourglass.training import checkpoints

LOSSES, LENGTHS = 1e-5, {'weights': 2e-2, 'slots': 1e-4}  # Tolerances; see above.


def outcome(output_dir):
  """Returns what two runs must have in common: (arrays, losses in the notes, and in TensorBoard, (steps kept, the
  best)).
  """
  store = checkpoints.Store(output_dir)
  step = store.newest_sound()
  notes = store.notes(step)
  everywhere = sharding.everywhere(sharding.over_devices(1))
  like = {part: [jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere) for shape, dtype in of_part]
          for part, of_part in notes['shapes'].items()}
  arrays = jax.tree.map(np.asarray, store.restore(step, like))
  timed = 'training/steps per second'
  history = {part: {name: values for name, values in of_part.items() if name != timed}
             for part, of_part in notes['history']['_values'].items()}
  events = {(part, name): runs.events(pathlib.Path(output_dir), name, part)
            for part, of_part in history.items() for name in of_part}
  return arrays, history, events, (store.steps(), store.best())


def differences(found, expected, is_near=False):
  """Returns the differences in words; with `is_near`, only those above rounding."""
  if is_near:
    flat = lambda values: np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in values])
    vectors = {part: [flat(outcome[0][part]) for outcome in (found, expected)] for part in LENGTHS}
    said = [part for part, (x, y) in vectors.items() if np.linalg.norm(x - y) > LENGTHS[part] * np.linalg.norm(y)]
    near = lambda x, y: [step for step, _ in x] == [step for step, _ in y] and np.allclose(
        [value for _, value in x], [value for _, value in y], rtol=LOSSES, atol=0)
    losses = {(part, name): values for part, of_part in expected[1].items() for name, values in of_part.items()
              if name.startswith('metrics/')}
    return said + [f'{what} {name}' for (part, name), values in losses.items()
                   for what, x in (('history', found[1][part][name]), ('events', found[2][part, name]))
                   if not near(x, values)]
  said = [f'{part} {number}' for part, of_part in expected[0].items() for number, x in enumerate(of_part)
          if x.tobytes() != np.asarray(found[0][part][number]).tobytes()]
  return said + [what for what, a, b in zip(('history', 'events', 'checkpoints'), found[1:], expected[1:]) if a != b]
