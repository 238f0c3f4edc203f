"""Holds the infrastructure: Trax on current JAX, hosts and devices, files, gin, errors, progress."""
