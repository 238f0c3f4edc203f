"""Trax layers: core, blocks, attention, resampling, loops over layers, decoding by groups, and the contract of
plug-ins.
"""

from trax_hourglass.runtime import trax_compat  # Before any of these modules imports Trax.
