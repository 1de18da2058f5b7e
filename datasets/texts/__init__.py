"""Text corpora of any size, cut into pieces on the disk."""
