"""Uses trained models: scoring, decoding, attention maps. Knows no run directory."""

from trax_hourglass.runtime import trax_compat  # Before any of these modules imports Trax.
