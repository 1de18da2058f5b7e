"""Ant: a four-legged robot walks to a place."""
