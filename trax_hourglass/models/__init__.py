"""Provides Hourglass, its notation, its FLOPs, and weight conversion to and from Trax."""

from trax_hourglass.runtime import trax_compat  # Before any of these modules imports Trax.
