"""What everything else stands on: Trax on today's JAX, hosts and devices, files, gin, errors, progress."""
