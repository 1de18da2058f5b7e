from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.driving import picture, run
from worldmodel.datasets.collection.recording import CollectConfig, warm_up
from worldmodel.datasets.collection.teleop_controller import TeleopController
from worldmodel.datasets.collection.teleop_session import TeleopFile, TeleopSession
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
def controller(tasks: tuple[Any, Any], tmp_path: Path) -> Iterator[TeleopController]:
    task, view = tasks
    facts = warm_up(task, CollectConfig(TASK, image_size=16, policies={"random": 1.0}))
    with TeleopFile(tmp_path / "x.h5", TASK, facts) as file:
        yield TeleopController(TeleopSession(task, variation=("all",)), view, file, max_steps=20)


def press(controller: TeleopController, *keys: str, little: bool = False) -> None:
    controller.handle_message({"do": "keys", "keys": keys, "little": little})


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
def test_keys_drive_while_they_are_held(controller: TeleopController, keys: str, little: bool, action: list[float]) -> None:
    assert not controller.moving
    press(controller, *keys, little=little)
    assert run(controller, 3) == 3
    press(controller)
    assert not controller.moving
    episode = controller.session.episode()
    assert episode is not None and np.allclose(episode.actions, [action] * 3)


def test_a_tap_between_two_actions_counts_once(controller: TeleopController) -> None:
    press(controller, "d")
    press(controller)
    assert run(controller) == 1
    assert controller.session.episode().actions.tolist() == [[1.0, 0.0]]  # type: ignore[union-attr]


def test_keys_of_no_axis_do_nothing(controller: TeleopController) -> None:
    press(controller, "x", "ctrl")
    assert not controller.moving


@pytest.mark.parametrize("text", ["move left", "action: dx=-0.8, dy=0", "keys: a"])
def test_words_drive_for_as_many_steps_as_asked(controller: TeleopController, text: str) -> None:
    controller.handle_message({"do": "say", "text": text, "steps": 4})
    assert run(controller) == 4
    assert np.allclose(controller.session.episode().actions, [[-0.8, 0.0]] * 4)  # type: ignore[union-attr]
    assert controller.status()["action"] == "move left"


def test_a_key_stops_what_was_said(controller: TeleopController) -> None:
    controller.handle_message({"do": "say", "text": "move left", "steps": 50})
    controller.tick()
    press(controller, "d")
    controller.tick()
    press(controller)
    assert not controller.moving
    assert controller.session.episode().action_words == ["move left", "move right"]  # type: ignore[union-attr]


def test_time_may_always_run(controller: TeleopController) -> None:
    controller.handle_message({"do": "clock", "always": True})
    assert run(controller, 3) == 3
    controller.handle_message({"do": "clock", "always": False})
    assert not controller.moving
    assert controller.session.episode().action_words == ["stay still"] * 3  # type: ignore[union-attr]


def test_a_page_that_closes_lets_go(controller: TeleopController) -> None:
    controller.handle_message({"do": "say", "text": "move left", "steps": 50})
    press(controller, "d")
    controller.release()
    assert not controller.moving


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
def test_a_mistake_becomes_a_note_that_the_next_command_clears(controller: TeleopController, message: Any, words: str) -> None:
    controller.handle_message(message)
    assert words in controller.status()["note"] and controller.status()["failed"]
    assert not controller.moving
    controller.handle_message({"do": "new"})
    assert not controller.status()["failed"]


def test_episodes_end_up_in_the_file(controller: TeleopController, tmp_path: Path) -> None:
    def session(keys: str, steps: int) -> None:
        press(controller, *keys)
        run(controller, steps)
        press(controller)

    session("d", 2)
    controller.handle_message({"do": "new"})  # 1
    assert "episode 0 recorded" in controller.status()["note"]
    session("w", 3)
    controller.handle_message({"do": "discard"})
    session("s", 4)
    controller.handle_message({"do": "new"})  # 2, undone
    controller.handle_message({"do": "undo"})
    controller.handle_message({"do": "record", "on": False})
    session("a", 5)
    controller.handle_message({"do": "record", "on": True})
    session("wa", 6)  # 3
    assert (controller.status()["saved"], controller.status()["waiting"]) == (0, 1)
    controller.handle_message({"do": "save"})
    assert (controller.status()["saved"], controller.status()["waiting"]) == (2, 0)
    assert controller.status()["step"] == 0 and controller.kept == 2
    with EpisodeStore(tmp_path / "x.h5") as store:
        assert store.lengths.tolist() == [2, 6]
        assert store.episode(1).action_words[0] == "move left and move up"


def test_a_long_episode_ends_by_itself(controller: TeleopController) -> None:
    press(controller, "d")
    run(controller, 45)
    assert controller.status()["step"] == 5 and controller.status()["waiting"] == 2
    assert "20 steps" in controller.status()["note"]


def test_the_page_sees_what_is_recorded(controller: TeleopController, tasks: tuple[Any, Any]) -> None:
    task, view = tasks
    shown = []
    for camera in view.cameras:
        controller.handle_message({"do": "camera", "name": camera})
        press(controller, "d")
        run(controller, 2)
        status = controller.status()
        assert np.array_equal(view.get_state(), task.get_state()) and view.variation == task.variation
        for url, state in ((status["frame"], task.get_state()), (status["goal"], controller.session.info["goal_state"])):
            frame = picture(url)
            assert frame.shape == (48, 48, 3)
            assert np.abs(frame - view.render_state(state, camera)).mean() < 12  # it is a JPEG
        shown.append(picture(status["goal"]))
    assert np.abs(shown[0] - shown[1]).mean() > 12
    assert status["caption"] == task.language.caption() and status["goal_text"] in task.language.goals()


def test_a_task_whose_state_cannot_be_set_is_shown_as_recorded(tasks: tuple[Any, Any], tmp_path: Path) -> None:
    task, _ = tasks
    facts = warm_up(task, CollectConfig(TASK, image_size=16, policies={"random": 1.0}))
    with TeleopFile(tmp_path / "x.h5", TASK, facts) as file:
        controller = TeleopController(TeleopSession(task), task, file, max_steps=20)
        press(controller, "d")
        run(controller, 3)
        assert controller.session.recorded == 3
        assert picture(controller.status()["frame"]).shape == picture(controller.status()["goal"]).shape == (16, 16, 3)


def test_what_stays_the_same(controller: TeleopController, tasks: tuple[Any, Any]) -> None:
    about = controller.about()["about"]
    assert about["task"] == TASK and about["rate"] == 10
    assert [axis["keys"] for axis in about["axes"]] == [("a", "d"), ("s", "w")]
    assert about["axes"][0]["words"] == ("move left", "move right")
    tasks[0].parse_action(about["example"])
