"""PointMaze: walls hold, start and goal are apart in the maze, words compared with picture and physics."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from worldmodel.envs import make_task
from worldmodel.envs.colors import OBJECT_COLORS, WALL_COLORS
from worldmodel.envs.demonstrators import solves
from worldmodel.envs.tasks.point_maze.language import NUMBERS
from worldmodel.envs.tasks.point_maze.mazes import CELLS, DIRECTIONS, cell_of, centre_of, path_lengths
from worldmodel.envs.tasks.point_maze.task import MIN_PATH, PointMaze
from worldmodel.errors import UserError

SIZE = 96


@pytest.fixture(scope="module")
def task() -> Iterator[PointMaze]:
    task = make_task("worldmodel/PointMaze-v0", image_size=SIZE)
    assert isinstance(task, PointMaze)
    yield task
    task.close()


def put(task: PointMaze, start: np.ndarray, **values: Any) -> None:
    task.reset(options={"state": task.make_state(start), "variation_values": values})


def drive(task: PointMaze, action: tuple[float, float], steps: int) -> np.ndarray:
    """Where the ball is (2,) after one held action."""
    for _ in range(steps):
        task.advance(np.array(action))
    return task.position_of(task.get_state())


def pixel(frame: np.ndarray, point: np.ndarray, extent: float = 2.15) -> np.ndarray:
    column, row = ((point * [1, -1] / extent + 0.5) * SIZE).astype(int)
    return frame[row, column].astype(int)


def test_every_episode_has_a_maze_of_its_own(task: PointMaze) -> None:
    mazes = set()
    for seed in range(30):
        task.reset(seed=seed)
        mazes.add((task.maze.right.tobytes(), task.maze.up.tobytes()))
    assert len(mazes) == 30


def test_start_and_goal_are_apart_along_the_path(task: PointMaze) -> None:
    lengths = []
    for seed in range(100):
        _, info = task.reset(seed=seed, options={"variation": "all"})
        start, goal = (cell_of(task.position_of(info[name]), CELLS) for name in ("state", "goal_state"))
        lengths.append(path_lengths(task.maze, goal)[start])
    assert min(lengths) >= MIN_PATH and max(lengths) > 2 * MIN_PATH


def test_the_ball_leaves_a_cell_by_its_ways_out_only(task: PointMaze) -> None:
    for number in range(12):
        for cell in [(0, 0), (2, 2), (4, 1), (1, 3)]:
            for way, step in DIRECTIONS.items():
                put(task, centre_of(cell, CELLS), **{"maze.layout": number, "maze.openness": 0.0})
                end = drive(task, (float(step[0]), float(step[1])), 4)
                expected = (cell[0] + step[0], cell[1] + step[1]) if way in task.maze.open_directions(cell) else cell
                assert cell_of(end, CELLS) == expected


def test_nothing_is_driven_through_walls_or_to_an_impossible_place(task: PointMaze) -> None:
    for seed in range(12):
        task.reset(seed=seed, options={"variation": "all"})
        rng = np.random.default_rng(seed)
        before = cell_of(task.position_of(task.get_state()), CELLS)
        for action in rng.choice([-1.0, 1.0], size=(10, 2)).repeat(10, axis=0):
            after_point = drive(task, (action[0], action[1]), 1)
            assert task.invalid_reason(after_point) is None
            after = cell_of(after_point, CELLS)
            assert path_lengths(task.maze, before)[after] <= 2  # round a corner at most
            before = after
        assert all(warning.number == 0 for warning in task.data.warning)


def test_friction_mass_and_speed_matter(task: PointMaze) -> None:
    def height(**values: float) -> float:
        """How far up the left rim the ball gets when it is pushed up and against the rim."""
        names = {name.replace("_", "."): value for name, value in values.items()}
        put(task, np.array([-0.89, -0.8]), **({"maze.layout": 3, "maze.openness": 0.0} | names))
        assert "up" in task.maze.open_directions((0, 0))
        return float(drive(task, (-0.7, 0.7), 3)[1])

    assert height(wall_friction=0.0) > height(wall_friction=0.2) + 0.01 > height(wall_friction=0.5) + 0.02
    assert height(ball_mass=0.5) > height(ball_mass=2.5) + 0.03
    assert height(ball_speed=2.0) > height(ball_speed=1.1) + 0.05


def test_the_ball_slides_along_walls(task: PointMaze) -> None:
    put(task, np.array([-0.89, -0.8]), **{"maze.layout": 3, "maze.openness": 0.0})
    end = drive(task, (-0.7, 0.7), 4)
    assert end[1] > -0.6 and end[0] == pytest.approx(-0.9, abs=0.01)


def test_demonstrator_solves(task: PointMaze) -> None:
    assert all(solves(task, task.demonstrator, seed, {"variation": "all"} if seed % 2 else None) for seed in range(20))


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ([-0.98, 0.0], "goal_state cannot be reached: the ball would be outside the maze at x=-0.980"),
        ([0.0, 1.4], "outside the maze"),
        ("wall", "goal_state cannot be reached: the ball would be inside a wall"),
    ],
)
def test_impossible_places_are_refused(task: PointMaze, point: Any, message: str) -> None:
    task.reset(seed=0)
    if point == "wall":
        blocked = next(step for way, step in DIRECTIONS.items() if way not in task.maze.open_directions((2, 2)))
        point = 0.2 * np.array(blocked)
    values = {"maze.layout": task.variation["maze.layout"]}
    with pytest.raises(UserError, match=message):
        task.reset(options={"goal_state": task.make_state(np.array(point)), "variation_values": values})


def test_words_agree_with_the_picture(task: PointMaze) -> None:
    """Finds ball and walls by their colours in the frame, and compares them with every word."""
    rng = np.random.default_rng(0)
    names = ["ball.color", "maze.openness", "wall.color"]
    for seed in range(60):
        obs, info = task.reset(seed=seed, options={"variation": names})
        said = task.language.read(info["caption"])
        color = np.round(255 * np.array(OBJECT_COLORS[said["color"]]))
        rows, columns = np.nonzero((np.abs(obs["pixels"] - color) < 12).all(axis=-1))
        assert len(rows) > 25, "the ball has the colour that the caption says"
        point = np.array([columns.max() + columns.min() + 1, SIZE * 2 - rows.max() - rows.min() - 1]) / 2 / SIZE * 2.15 - 1.075
        np.testing.assert_allclose(info["features"], point, atol=0.04)

        wall = 255 * np.array(WALL_COLORS[info["variation"]["wall.color"]])
        cell = cell_of(info["features"], CELLS)
        middle = centre_of(cell, CELLS)
        ways = [
            way for way, step in DIRECTIONS.items() if abs(pixel(obs["pixels"], middle + 0.215 * np.array(step)) - wall).max() > 30
        ]
        assert said["row"] == ["bottom", "lower", "middle", "upper", "top"][cell[1]]
        assert said["column"] == ["first", "second", "third", "fourth", "fifth"][cell[0]]
        kind = {1: "dead end", 3: "junction", 4: "crossing"}.get(len(ways), "corridor")
        kind = "bend" if len(ways) == 2 and ways not in (["left", "right"], ["down", "up"]) else kind
        assert said["place"] == kind
        for _ in range(4):
            for question, answer in task.language.relation_questions(rng, info["features"]):
                if question.startswith("is the way"):
                    way, word = question.removeprefix("is the way ").rstrip("?").split()
                    assert answer == ("yes" if (way in ways) == (word == "open") else "no")
                if question.startswith("how many ways"):
                    assert answer == NUMBERS[len(ways)]


def test_questions_about_ways_are_balanced_for_whoever_reads_the_question_alone(task: PointMaze) -> None:
    answers: dict[str, list[bool]] = {}
    rng = np.random.default_rng(1)
    for seed in range(300):
        _, info = task.reset(seed=seed, options={"variation_values": {"maze.openness": 0.4}})
        for _ in range(4):
            for question, answer in task.language.relation_questions(rng, task.position_of(info["state"])):
                if answer in ("yes", "no"):
                    answers.setdefault(question, []).append(answer == "yes")
    assert len(answers) == 2 * len(DIRECTIONS)
    for given in answers.values():
        assert len(given) > 80 and 0.35 < np.mean(given) < 0.65


def test_marks_are_counted(task: PointMaze) -> None:
    task.reset(seed=0, options={"variation_values": {"marks.count": 0}})
    plain = task.render()
    _, info = task.reset(seed=0, options={"variation_values": {"marks.count": 6}})
    assert (task.render() != plain).any(axis=-1).sum() > 100
    asked = dict(
        pair for s in range(20) for pair in task.language.relation_questions(np.random.default_rng(s), task.position_of(info["state"]))
    )
    assert asked["how many marks are on the floor?"] == "six"


def test_changes_say_where_the_ball_went(task: PointMaze) -> None:
    put(task, centre_of((0, 0), CELLS), **{"maze.layout": 3, "maze.openness": 0.0})
    here, above = (task.make_state(centre_of(cell, CELLS)) for cell in ((0, 0), (0, 1)))
    assert task.language.change(here, here) == "the ball did not move"
    assert task.language.change(here, above) == "the ball moved up into another cell, a corridor"
    beside = task.make_state(centre_of((0, 0), CELLS) + [0.06, 0.0])
    assert task.language.change(here, beside) == "the ball moved right"


def test_caption_wording(task: PointMaze) -> None:
    put(task, centre_of((0, 1), CELLS), **{"maze.layout": 3, "maze.openness": 0.0, "ball.color": "orange"})
    assert task.language.caption() == "an orange ball in a corridor, in the lower row and in the first column"
    assert "by the ways down and up" in task.language.captions()[3]
