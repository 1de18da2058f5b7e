"""PointMaze: a ball rolls through a maze that is new in every episode."""
