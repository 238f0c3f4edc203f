"""What is done with a model that was trained: scoring, decoding, attention maps. Knows no run directory."""

from trax_hourglass.runtime import trax_compat  # Before any of these modules imports Trax.
