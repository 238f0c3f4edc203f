"""Implements the commands: flags, one-line errors, and output of text and images."""
