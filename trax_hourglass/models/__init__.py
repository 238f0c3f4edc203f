"""Hourglass, its notation, its FLOPs, and weights to and from Trax."""

from trax_hourglass.runtime import trax_compat  # Before any of these modules imports Trax.
