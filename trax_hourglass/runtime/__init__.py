"""Carries everything else: Trax on today's JAX, hosts and devices, files, gin, errors, progress."""
