"""The seconds of training: without first steps and pauses, and over restarts."""

import dataclasses


from trax_hourglass.training import clock


@dataclasses.dataclass
class FakeLoop:
  step: int
  loss: float = 1.0


def test_clock_leaves_out_first_steps_and_pauses_and_goes_on(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(clock.time, 'monotonic', lambda: now[0])

  def train(first, last):
    watch = clock.Clock(FakeLoop(first - 1), tmp_path / 'seconds.json', lambda step: step % 3 == 0)
    for step in range(first, last + 1):
      watch.on_step_begin(step)
      now[0] += 100.0 if step == first else 2.0  # The first one compiles.
      watch.on_step_end(step)
      now[0] += 50.0 if step % 3 == 0 else 1.0  # Evaluations, or a batch.

  train(1, 7)
  # Steps 2 and 3 and the batches before them; steps 4 to 6, and the two batches between them.
  assert clock.read(tmp_path / 'seconds.json') == [(3, 6.0, 2), (6, 14.0, 5)]
  train(4, 6)  # From the checkpoint of step 3: what came after it is forgotten.
  sums = clock.read(tmp_path / 'seconds.json')
  assert sums == [(3, 6.0, 2), (6, 12.0, 4)]
  # Steps that were not timed count as the others: 3 s each.
  assert [clock.at(sums, step) for step in (0, 1, 3, 5, 6, 9)] == [0.0, 3.0, 9.0, 15.0, 18.0, 18.0]
  assert clock.at([(1, 0.0, 0)], 1) == 0.0
