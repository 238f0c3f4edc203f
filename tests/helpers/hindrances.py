"""What child processes are slowed down by, or do in place of training."""

import os
import time

from trax_hourglass.training import checksums
from trax_hourglass.runtime import trax_compat


def slow_checkpoints():
  """Lets a checkpoint take ten minutes to write."""
  checksums.write = lambda *_: time.sleep(600)


def main(_):
  """Writes a known line and a new one while the known ones are held back."""
  with trax_compat._without_noise():  # pylint: disable=protected-access
    os.write(2, b'I0000 known\nsomething new\n')
