"""PushT: a disc pushes a T-shaped block into a pose."""
