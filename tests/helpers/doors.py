"""Runs commands within the process of the tests."""

import sys

from trax_hourglass import train




def main(monkeypatch, *arguments, command=train):
  """Runs `python -m trax_hourglass.COMMAND` in this process, which has Trax imported already; returns its exit code."""
  monkeypatch.setattr(sys, 'argv', [command.__name__, *map(str, arguments)])
  try:
    command.main()
  except SystemExit as stop:
    return stop.code
  return 0
