"""Training: the compiled step, Trax's loop around it, checkpoints, run directories."""

from trax_hourglass.runtime import trax_compat  # Before any of these modules imports Trax.
