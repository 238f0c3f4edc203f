"""Provides Trax layers: core layers, blocks, attention, resampling, scans over layers, group decoding, and the contract
of plug-ins.
"""

from trax_hourglass.runtime import trax_compat  # Before any of these modules imports Trax.
