"""Provides corpora, their splits, windows and batches, independently of any model."""
