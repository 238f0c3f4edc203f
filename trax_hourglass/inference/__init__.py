"""Uses trained models for scoring, decoding and attention maps; does not depend on run directories."""

from trax_hourglass.runtime import trax_compat  # Must run before any of these modules imports Trax.
