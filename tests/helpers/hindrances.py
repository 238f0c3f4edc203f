"""Slows child processes down."""

import time

from trax_hourglass.training import checksums


def slow_checkpoints():
  """Makes the writing of a checkpoint take ten minutes."""
  checksums.write = lambda *_: time.sleep(600)
