"""Foreign data formats, each translated both ways where it can be written."""
