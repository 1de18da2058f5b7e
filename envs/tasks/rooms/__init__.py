"""Rooms: a walk, first person, through furnished rooms that are new in every episode."""
