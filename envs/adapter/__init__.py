"""Environments of other packages behind the interface of `Task`."""
