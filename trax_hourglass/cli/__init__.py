"""Serves all commands: flags, one-line errors, texts and images on the terminal and in files."""
