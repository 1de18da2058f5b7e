"""The tasks of this suite, a folder each: the scene and its physics in `task.py`, what is said about it in `language.py`."""
