"""Trains models: the compiled step, Trax's loop around it, checkpoints, run directories."""

from trax_hourglass.runtime import trax_compat  # Must run before any of these modules imports Trax.
