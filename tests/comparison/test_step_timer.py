"""Tests training times, without first steps and pauses and over restarts, and the progress bar of a resumed run."""

import dataclasses


from trax_hourglass.comparison import step_timer
from trax_hourglass.training import progress


@dataclasses.dataclass
class FakeLoop:
  step: int
  loss: float = 1.0
  is_chief: bool = False


def test_clock_excludes_compilation_and_evaluation_and_resumes(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(step_timer.time, 'monotonic', lambda: now[0])

  def train(first, last):
    watch = step_timer.Clock(FakeLoop(first - 1), tmp_path / 'seconds.json', lambda step: step % 3 == 0)
    for step in range(first, last + 1):
      watch.on_step_begin(step)
      now[0] += 100.0 if step == first else 2.0  # The first step compiles.
      watch.on_step_end(step)
      now[0] += 50.0 if step % 3 == 0 else 1.0  # An evaluation, or a batch.

  train(1, 7)
  # Steps 2 and 3 with the batches before them, then steps 4 to 6 with the two batches between them.
  assert step_timer.read(tmp_path / 'seconds.json') == [(3, 6.0, 2), (6, 14.0, 5)]
  train(4, 6)  # Resumes from step 3, so later sums are discarded.
  sums = step_timer.read(tmp_path / 'seconds.json')
  assert sums == [(3, 6.0, 2), (6, 12.0, 4)]
  assert step_timer.per_step(sums) == (3.0, 3.0)


def test_per_step_gives_mean_and_median_seconds():
  # 5 steps of 1 s, 2 of 9 s, 4 of 2 s; steps without timing are ignored.
  sums = [(1, 0.0, 0), (6, 5.0, 5), (8, 23.0, 7), (10, 23.0, 7), (14, 31.0, 11)]
  assert step_timer.per_step(sums) == (31 / 11, 2.0)
  assert step_timer.per_step([(1, 0.0, 0)]) == step_timer.per_step([]) == (0.0, 0.0)


def test_progress_bar_of_a_resumed_run_starts_at_its_step():
  loop = FakeLoop(0)  # Trax's loop creates its callbacks before it restores a checkpoint.
  bar = progress.TrainingProgress(loop, n_steps=100, tokens_per_step=1, unit='byte')
  bar.on_step_begin(91)
  assert bar._progress._bar.n == 90
