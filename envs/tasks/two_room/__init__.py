"""TwoRoom: a disc goes through a door."""
