"""Compares models under an equal budget: rows, budgets, tables, plots."""

from trax_hourglass.runtime import trax_compat  # Must run before any of these modules imports Trax.
