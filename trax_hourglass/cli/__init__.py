"""What the commands share: flags, errors in one line, texts and images on the terminal and in files."""
