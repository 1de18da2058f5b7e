"""Cube: a gripper picks, places and stacks colored cubes."""
