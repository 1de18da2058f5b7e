import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worldmodel.datasets.collection.recording import CollectConfig, first_look
from worldmodel.datasets.collection.teleop_controller import Cockpit
from worldmodel.datasets.collection.teleop_session import Drive, DriveFile
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.envs import make_task

TASK = "worldmodel/TwoRoom-v0"


@pytest.fixture(scope="module")
def tasks() -> Iterator[tuple[Any, Any]]:
    """The recorded one and the one that is looked at."""
    tasks = make_task(TASK, image_size=16), make_task(TASK, image_size=48)
    yield tasks
    for task in tasks:
        task.close()


@pytest.fixture
def cockpit(tasks: tuple[Any, Any], tmp_path: Path) -> Iterator[Cockpit]:
    task, view = tasks
    facts = first_look(task, CollectConfig(TASK, image_size=16, policies={"random": 1.0}))
    with DriveFile(tmp_path / "x.h5", TASK, facts) as file:
        yield Cockpit(Drive(task, variation=("all",)), view, file, max_steps=20)


def press(cockpit: Cockpit, *keys: str, little: bool = False) -> None:
    cockpit.obey({"do": "keys", "keys": keys, "little": little})


def run(cockpit: Cockpit, at_most: int = 100) -> int:
    """Lets the time run until nothing moves; the number of ticks."""
    for ticks in range(at_most):
        if not cockpit.moving:
            return ticks
        cockpit.tick()
    return at_most


def picture(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))), int)


@pytest.mark.parametrize(
    ("keys", "little", "action"),
    [
        ("d", False, [1, 0]),
        ("a", False, [-1, 0]),
        ("wd", False, [1, 1]),
        ("ad", False, [0, 0]),
        ("s", True, [0, -0.3]),
    ],
)
def test_keys_drive_while_they_are_held(cockpit: Cockpit, keys: str, little: bool, action: list[float]) -> None:
    assert not cockpit.moving
    press(cockpit, *keys, little=little)
    assert run(cockpit, 3) == 3
    press(cockpit)
    assert not cockpit.moving
    episode = cockpit.drive.episode()
    assert episode is not None and np.allclose(episode.actions, [action] * 3)


def test_a_tap_between_two_actions_counts_once(cockpit: Cockpit) -> None:
    press(cockpit, "d")
    press(cockpit)
    assert run(cockpit) == 1
    assert cockpit.drive.episode().actions.tolist() == [[1.0, 0.0]]  # type: ignore[union-attr]


def test_keys_of_no_axis_do_nothing(cockpit: Cockpit) -> None:
    press(cockpit, "x", "ctrl")
    assert not cockpit.moving


@pytest.mark.parametrize("text", ["move left", "action: dx=-0.8, dy=0", "keys: a"])
def test_words_drive_for_as_many_steps_as_asked(cockpit: Cockpit, text: str) -> None:
    cockpit.obey({"do": "say", "text": text, "steps": 4})
    assert run(cockpit) == 4
    assert np.allclose(cockpit.drive.episode().actions, [[-0.8, 0.0]] * 4)  # type: ignore[union-attr]
    assert cockpit.status()["action"] == "move left"


def test_a_key_stops_what_was_said(cockpit: Cockpit) -> None:
    cockpit.obey({"do": "say", "text": "move left", "steps": 50})
    cockpit.tick()
    press(cockpit, "d")
    cockpit.tick()
    press(cockpit)
    assert not cockpit.moving
    assert cockpit.drive.episode().action_words == ["move left", "move right"]  # type: ignore[union-attr]


def test_time_may_always_run(cockpit: Cockpit) -> None:
    cockpit.obey({"do": "clock", "always": True})
    assert run(cockpit, 3) == 3
    cockpit.obey({"do": "clock", "always": False})
    assert not cockpit.moving
    assert cockpit.drive.episode().action_words == ["stay still"] * 3  # type: ignore[union-attr]


def test_a_page_that_closes_lets_go(cockpit: Cockpit) -> None:
    cockpit.obey({"do": "say", "text": "move left", "steps": 50})
    press(cockpit, "d")
    cockpit.release()
    assert not cockpit.moving


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"do": "say", "text": "fly", "steps": 1}, "'fly'"),
        ({"do": "say", "text": "move left", "steps": 0}, "1 to 200"),
        ({"do": "say", "text": "move left", "steps": None}, "1 to 200"),
        ({"do": "camera", "name": "back"}, "unknown camera 'back'"),
        ({"do": "undo"}, "no recorded episode"),
        ({"do": "save"}, "nothing is recorded"),
        ({"do": "explode"}, "unknown"),
        (["do"], "unknown"),
        (None, "unknown"),
    ],
)
def test_a_mistake_becomes_a_note_that_the_next_command_clears(cockpit: Cockpit, message: Any, words: str) -> None:
    cockpit.obey(message)
    assert words in cockpit.status()["note"] and cockpit.status()["failed"]
    assert not cockpit.moving
    cockpit.obey({"do": "new"})
    assert not cockpit.status()["failed"]


def test_episodes_end_up_in_the_file(cockpit: Cockpit, tmp_path: Path) -> None:
    def drive(keys: str, steps: int) -> None:
        press(cockpit, *keys)
        run(cockpit, steps)
        press(cockpit)

    drive("d", 2)
    cockpit.obey({"do": "new"})  # 1
    assert "episode 0 recorded" in cockpit.status()["note"]
    drive("w", 3)
    cockpit.obey({"do": "discard"})
    drive("s", 4)
    cockpit.obey({"do": "new"})  # 2, undone
    cockpit.obey({"do": "undo"})
    cockpit.obey({"do": "record", "on": False})
    drive("a", 5)
    cockpit.obey({"do": "record", "on": True})
    drive("wa", 6)  # 3
    assert (cockpit.status()["saved"], cockpit.status()["waiting"]) == (0, 1)
    cockpit.obey({"do": "save"})
    assert (cockpit.status()["saved"], cockpit.status()["waiting"]) == (2, 0)
    assert cockpit.status()["step"] == 0 and cockpit.kept == 2
    with EpisodeStore(tmp_path / "x.h5") as store:
        assert store.lengths.tolist() == [2, 6]
        assert store.episode(1).action_words[0] == "move left and move up"


def test_a_long_episode_ends_by_itself(cockpit: Cockpit) -> None:
    press(cockpit, "d")
    run(cockpit, 45)
    assert cockpit.status()["step"] == 5 and cockpit.status()["waiting"] == 2
    assert "20 steps" in cockpit.status()["note"]


def test_the_page_sees_what_is_recorded(cockpit: Cockpit, tasks: tuple[Any, Any]) -> None:
    task, view = tasks
    shown = []
    for camera in view.cameras:
        cockpit.obey({"do": "camera", "name": camera})
        press(cockpit, "d")
        run(cockpit, 2)
        status = cockpit.status()
        assert np.array_equal(view.get_state(), task.get_state()) and view.variation == task.variation
        for url, state in ((status["frame"], task.get_state()), (status["goal"], cockpit.drive.info["goal_state"])):
            frame = picture(url)
            assert frame.shape == (48, 48, 3)
            assert np.abs(frame - view.render_state(state, camera)).mean() < 12  # it is a JPEG
        shown.append(picture(status["goal"]))
    assert np.abs(shown[0] - shown[1]).mean() > 12
    assert status["caption"] == task.caption() and status["goal_text"] in task.describe_goal()


def test_a_task_whose_state_cannot_be_set_is_shown_as_recorded(tasks: tuple[Any, Any], tmp_path: Path) -> None:
    task, _ = tasks
    facts = first_look(task, CollectConfig(TASK, image_size=16, policies={"random": 1.0}))
    with DriveFile(tmp_path / "x.h5", TASK, facts) as file:
        cockpit = Cockpit(Drive(task), task, file, max_steps=20)
        press(cockpit, "d")
        run(cockpit, 3)
        assert cockpit.drive.recorded == 3
        assert picture(cockpit.status()["frame"]).shape == picture(cockpit.status()["goal"]).shape == (16, 16, 3)


def test_what_stays_the_same(cockpit: Cockpit, tasks: tuple[Any, Any]) -> None:
    about = cockpit.about()["about"]
    assert about["task"] == TASK and about["rate"] == 10
    assert [axis["keys"] for axis in about["axes"]] == [("a", "d"), ("s", "w")]
    assert about["axes"][0]["words"] == ("move left", "move right")
    tasks[0].parse_action(about["example"])
