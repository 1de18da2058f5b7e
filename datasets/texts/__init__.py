"""Text corpora of any size, cut into chunks on the disk."""
