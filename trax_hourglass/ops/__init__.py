"""Provides pure array functions without Trax: attention, positions, KV caches, dropout, random keys and remat."""
