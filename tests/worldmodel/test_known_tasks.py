"""A model is not used for a task that it was not trained on without a word, nor a run gone on with on other data."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.datasets.toys import make_episode
from worldmodel.datasets.episodes.action_units import ActionUnits
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError
from worldmodel.known_tasks import KEY, Actions, actions_of, block_of, card_of, check_task, data_of, known_task, tasks_of, units_of
from worldmodel.unseen import held_out_episodes


def toy_file(path: Path, env_id: str, names: list[str]) -> EpisodeStore:
    write_episodes(path, [make_episode(i, 3) for i in range(2)], {"env_id": env_id, "seed": 0, "action_names": names})
    return EpisodeStore(path)


@pytest.fixture
def known(tmp_path: Path) -> dict[str, object]:
    return {KEY: tasks_of([toy_file(tmp_path / "known.h5", "Room-v0", ["dx", "dy"])])}


def test_a_task_with_other_actions_is_refused(known: dict[str, object], tmp_path: Path) -> None:
    other = toy_file(tmp_path / "other.h5", "HalfCheetah-v5", ["bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"])
    words = r"trained on Room-v0, and .*other.h5 holds episodes of HalfCheetah-v5.*\(bthigh, bshin, bfoot, fthigh, ...\)"
    with pytest.raises(UserError, match=words):
        check_task(known, other)
    with pytest.raises(UserError, match=words):
        held_out_episodes(SimpleNamespace(card=known | {"trained_on": []}, codec=SimpleNamespace(trained_on=())), other)  # type: ignore[arg-type]


def test_another_task_with_the_same_actions_is_told(
    known: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_task(known, toy_file(tmp_path / "other.h5", "Hall-v0", ["dx", "dy"]))
    assert "the model was trained on Room-v0: of Hall-v0" in caplog.text


def test_a_task_that_it_knows_and_a_card_that_names_none_say_nothing(
    known: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_task(known, toy_file(tmp_path / "more.h5", "Room-v0", ["dx", "dy"]))
        for card in ({}, {KEY: {}}, {KEY: None}):
            check_task(card, toy_file(tmp_path / f"{len(str(card))}.h5", "Hall-v0", ["torque"]))
    assert caplog.text == ""


def test_a_card_tells_actions_with_their_range_and_where_the_files_are(tmp_path: Path) -> None:
    wide = make_episode(0, 3, actions=np.array([[-2, 0], [0.5, np.nan], [0, 1.5]], np.float32))
    write_episodes(tmp_path / "wide.h5", [wide], {"env_id": "worldmodel/PushT-v0", "seed": 0, "action_names": ["dx", "dy"]})
    stores = [toy_file(tmp_path / "room.h5", "Room-v0", ["dx", "dy"]), EpisodeStore(tmp_path / "wide.h5")]
    units = {"Room-v0": ActionUnits((5.0, 0.0), (2.0, 1.0)), "worldmodel/PushT-v0": ActionUnits((0.0, 0.0), (1.0, 1.0))}
    card = json.loads(json.dumps(card_of(stores, 3, units)))
    assert units_of(card, "Room-v0") == units["Room-v0"]
    assert units_of(card, "worldmodel/PushT-v0") is units_of({}, "Room-v0") is None
    with pytest.raises(UserError, match="the card's units of the actions of Room-v0"):
        units_of({"action_units": {"Room-v0": {"center": [0.0], "scale": [0.0]}}}, "Room-v0")
    assert card["tasks"] == {"Room-v0": ["dx", "dy"], "worldmodel/PushT-v0": ["dx", "dy"]}
    assert card["files"] == [str(tmp_path / "room.h5"), str(tmp_path / "wide.h5")]
    assert actions_of(card, "Room-v0") == Actions(2, -1.0, 1.0, 3)
    assert actions_of(card, "worldmodel/PushT-v0") == Actions(2, -2.0, 1.5, 3)
    assert known_task(card, "PushT") == known_task(card, "worldmodel/PushT-v0") == "worldmodel/PushT-v0"
    with pytest.raises(UserError, match="trained on Room-v0, worldmodel/PushT-v0, so it is not asked about Reacher"):
        known_task(card, "Reacher")


def test_the_file_with_actions_that_is_still_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toy_file(tmp_path / "room.h5", "Room-v0", ["dx", "dy"])
    files = [str(tmp_path / "gone.h5"), str(tmp_path / "room.h5")]
    monkeypatch.setattr("worldmodel.known_tasks.read_card", lambda folder: {"files": files})
    with caplog.at_level(logging.INFO):
        assert data_of(tmp_path) == tmp_path / "room.h5"
    assert "room.h5, which the model was trained on, one of its 2 files" in caplog.text


def a_model(numbers: int, card: dict[str, Any]) -> Any:
    """What `block_of` reads of a model whose action blocks hold so many numbers."""
    return SimpleNamespace(card=card, model=SimpleNamespace(config=SimpleNamespace(action_dim=numbers)))


def test_a_model_step_is_as_long_as_the_card_says_of_the_task(tmp_path: Path) -> None:
    """A model of two tasks has blocks of the wider one: what fits into them is no measure of the other's."""
    room = toy_file(tmp_path / "room.h5", "Room-v0", ["dx", "dy"])
    described = {"actions": {"Room-v0": {"size": 2, "low": -1.0, "high": 1.0, "block": 3}}}
    assert block_of(a_model(12, described), room, Path("run")) == 3
    hall = toy_file(tmp_path / "hall.h5", "Hall-v0", ["dx", "dy"])
    assert block_of(a_model(12, described | {"mixture": {"action_block": 4}}), hall, Path("run")) == 4, "a task that it has not seen"
    for wrong in ({"size": 4, "block": 3}, {"size": 2, "block": 7}):
        card = {"actions": {"Room-v0": described["actions"]["Room-v0"] | wrong}}
        with pytest.raises(UserError, match=r"the card of run says . actions of . numbers to a model step; those in .*room.h5 have 2"):
            block_of(a_model(12, card), room, Path("run"))


def test_without_a_word_of_the_card_a_model_step_is_as_many_actions_as_fit_its_numbers(tmp_path: Path) -> None:
    room = toy_file(tmp_path / "data.h5", "Room-v0", ["dx", "dy"])
    assert block_of(a_model(6, {}), room, Path("run")) == 3
    assert block_of(a_model(2, {"mixture": {"action_block": 3}}), room, Path("run")) == 1, "which cannot be"
    with pytest.raises(UserError, match="the model of run takes 5 numbers .* no multiple of the 2 numbers of an action in .*data.h5"):
        block_of(a_model(5, {}), room, Path("run"))
