"""Mazes: connected, repeatable, with true paths and walls where nothing is open."""

import numpy as np
import pytest

from worldmodel.envs.tasks.point_maze.mazes import DIRECTIONS, cell_of, centre_of, make_maze, max_walls, path_lengths, wall_boxes


def open_pairs(number: int, openness: float, size: int) -> int:
    maze = make_maze(number, openness, size)
    return int(maze.right.sum() + maze.up.sum())


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_every_cell_can_be_reached_from_every_other(size: int) -> None:
    for number in range(30):
        for openness in (0.0, 0.5):
            assert path_lengths(make_maze(number, openness, size), (0, size - 1)).min() == 0
            assert (path_lengths(make_maze(number, openness, size), (0, 0)) >= 0).all()


def test_without_openness_there_is_one_path_and_openness_adds_others() -> None:
    for number in range(20):
        pairs = [open_pairs(number, openness, 5) for openness in (0.0, 0.25, 0.5, 1.0)]
        assert pairs == [24, 28, 32, 40]  # a tree of 25 cells, then 16 walls go


def test_a_more_open_maze_keeps_all_ways() -> None:
    for number in range(20):
        narrow, wide = make_maze(number, 0.1, 5), make_maze(number, 0.4, 5)
        assert (wide.right >= narrow.right).all() and (wide.up >= narrow.up).all()


def test_the_number_decides_the_maze() -> None:
    mazes = {(make_maze(n, 0.0, 5).right.tobytes(), make_maze(n, 0.0, 5).up.tobytes()) for n in range(100)}
    assert len(mazes) == 100
    first = make_maze(7, 0.2, 5)
    make_maze.cache_clear()
    again = make_maze(7, 0.2, 5)
    assert np.array_equal(first.right, again.right) and np.array_equal(first.up, again.up)


def test_ways_out_lead_there_and_back() -> None:
    back = {"left": "right", "right": "left", "up": "down", "down": "up"}
    for number in range(10):
        maze = make_maze(number, 0.2, 5)
        for cell in np.ndindex(5, 5):
            for way in maze.open_directions((cell[0], cell[1])):
                step = DIRECTIONS[way]
                assert back[way] in maze.open_directions((cell[0] + step[0], cell[1] + step[1]))


def test_path_lengths_go_down_by_one_along_some_way_out() -> None:
    for number in range(10):
        maze = make_maze(number, 0.2, 5)
        lengths = path_lengths(maze, (4, 0))
        for i, j in np.ndindex(5, 5):
            around = [lengths[i + DIRECTIONS[way][0], j + DIRECTIONS[way][1]] for way in maze.open_directions((i, j))]
            assert (i, j) == (4, 0) or min(around) == lengths[i, j] - 1
            assert max(abs(np.array(around) - lengths[i, j])) <= 1


def test_a_wall_stands_exactly_where_two_cells_are_not_joined() -> None:
    for number in range(20):
        maze = make_maze(number, 0.2, 5)
        boxes = wall_boxes(maze, 0.03)
        assert len(boxes) <= max_walls(5)
        for cell in np.ndindex(5, 5):
            middle = centre_of((cell[0], cell[1]), 5)
            for way, step in DIRECTIONS.items():
                edge = middle + 0.2 * np.array(step)
                if abs(edge).max() > 0.99:  # the rim
                    continue
                blocked = (np.abs(edge - boxes[:, :2]) <= boxes[:, 2:]).all(axis=1).any()
                assert blocked == (way not in maze.open_directions((cell[0], cell[1])))
            assert not (np.abs(middle - boxes[:, :2]) <= boxes[:, 2:]).all(axis=1).any()


def test_an_open_maze_without_walls_has_no_boxes() -> None:
    assert wall_boxes(make_maze(0, 1.0, 3), 0.03).shape == (0, 4)


def test_cells_and_their_middles() -> None:
    assert cell_of(np.array([-0.95, 0.95]), 5) == (0, 4)
    assert cell_of(np.array([1.3, -1.3]), 5) == (4, 0)
    for cell in np.ndindex(4, 4):
        assert cell_of(centre_of((cell[0], cell[1]), 4), 4) == cell
