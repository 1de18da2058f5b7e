"""Episode files: written, read, checked, described, combined."""
