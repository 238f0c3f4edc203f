"""Corpora, their splits, windows and batches. Knows no model."""
