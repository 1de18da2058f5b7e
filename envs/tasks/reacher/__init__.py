"""Reacher: a two-link arm takes a pose."""
