"""One episode that fails ends neither a collection nor its resumption; a collection of nothing but failures ends at once."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datasets.collection.failing import BROKEN, FLAKY, SAFE
from worldmodel.datasets.collection import collect as collecting
from worldmodel.datasets.collection.attempts import LeftOut, Player, left_out_path, load_left_out
from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.episode_shards import shard_path
from worldmodel.datasets.collection.recording import CollectConfig, open_task, record_episode
from worldmodel.datasets.episodes.episode import same_episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError

EPISODES = 24


def flaky(out: Path, **changes: object) -> CollectConfig:
    config = CollectConfig(FLAKY, out, EPISODES, policies={"random": 1, "smooth": 1}, image_size=16, max_steps=6, workers=1)
    return replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def expected() -> dict[int, int]:
    """Episode -> the world it is reset with, for those that must fail."""
    worlds = {}
    for i in range(EPISODES):
        try:
            info = open_task(flaky(Path("a.h5"))).reset(seed=int(np.random.default_rng([0, i]).integers(2**31)))[1]
            assert info["variation"]["episode.seed"] % 4
        except RuntimeError as error:
            worlds[i] = int(str(error).split()[-1])
            assert worlds[i] % 4 == 0 and worlds[i] >= SAFE
    assert 2 <= len(worlds) <= EPISODES // 2 - 2
    return worlds


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    out = tmp_path_factory.mktemp("uninterrupted") / "a.h5"
    collect(flaky(out))
    yield out.read_bytes()


def test_episodes_that_fail_are_named_and_left_out(expected: dict[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = flaky(tmp_path / "a.h5")
    with caplog.at_level(logging.WARNING):
        result = collect(config)
    assert result.left_out == tuple(expected) and result.episodes == result.new_episodes == EPISODES - len(expected)
    seeds = {i: int(np.random.default_rng([0, i]).integers(2**31)) for i in expected}
    said = [
        f"episode {i} (seed {seeds[i]}) is left out: RuntimeError: the point fell off in world {world}"
        for i, world in expected.items()
    ]
    assert [record.getMessage() for record in caplog.records if "left out" in record.getMessage()] == said
    with EpisodeStore(config.path) as store:
        assert [each["episode"] for each in store.meta["left_out"]] == list(expected)
        assert all(each["seed"] == seeds[each["episode"]] and "fell off" in each["error"] for each in store.meta["left_out"])
        kept = [i for i in range(EPISODES) if i not in expected]
        assert store.meta["coverage"]["episodes"] == len(store) == len(kept)
        task = open_task(config)  # a fresh one: a broken environment was not played on with
        for place, i in enumerate(kept):
            assert same_episode(store.episode(place), record_episode(task, config, i)), i
    assert collect(config).left_out == tuple(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_any_number_of_workers_leaves_out_the_same(uninterrupted: bytes, tmp_path: Path) -> None:
    collect(flaky(tmp_path / "a.h5", workers=3))
    assert (tmp_path / "a.h5").read_bytes() == uninterrupted


def test_going_on_does_not_try_them_again(
    expected: dict[int, int], uninterrupted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, first = flaky(tmp_path / "a.h5"), min(expected)
    add = collecting._Merger.add

    def stop(merger: collecting._Merger, episode: int) -> None:
        add(merger, episode)
        if episode > first:
            raise KeyboardInterrupt

    monkeypatch.setattr(collecting._Merger, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        collect(config)
    monkeypatch.undo()
    shards = tmp_path / "a.h5.parts"
    left_out = load_left_out(shards, first)
    assert left_out is not None and not shard_path(shards, first).exists()
    other = replace(left_out, error="as the first time")  # a second try would say something else
    left_out_path(shards, first).write_bytes(other.to_bytes())
    asked = list[int]()
    play = collecting._play
    monkeypatch.setattr(
        collecting, "_play", lambda config, shards, missing, merger: asked.extend(missing) or play(config, shards, missing, merger)
    )
    assert collect(config).left_out == tuple(expected)
    assert asked and first not in asked
    assert "left out: as the first time" in caplog.text
    with EpisodeStore(config.path) as store:
        assert store.meta["left_out"][0]["error"] == "as the first time"


def test_an_environment_that_never_works_ends_it_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Broken-v0 fails at every reset, tried 10 times, .* the point fell off in world \d+"):
        collect(flaky(tmp_path / "a.h5", env=BROKEN))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("episodes", "words"), [(EPISODES, "10 of the first 10"), (1, "1 of the first 1")])
def test_a_policy_that_always_fails_ends_it_at_once(
    episodes: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CollectConfig(out=tmp_path / "a.h5", episodes=episodes, image_size=16, max_steps=2, workers=1)
    add = collecting._Merger.add

    def fail(merger: collecting._Merger, episode: int) -> None:
        left_out_path(merger._shards, episode).write_bytes(LeftOut(episode, 1, "ValueError: too proud").to_bytes())
        add(merger, episode)

    monkeypatch.setattr(collecting._Merger, "add", fail)
    with pytest.raises(UserError, match=f"{words} episodes failed.*the first failure: ValueError: too proud"):
        collect(config)
    monkeypatch.undo()
    assert not config.path.exists() and not list(tmp_path.rglob("*.left_out"))
    assert collect(config).episodes == episodes  # what failed is tried again, now that it is mended


def test_marks_of_other_arguments_do_not_count(tmp_path: Path) -> None:
    shards = tmp_path / "a.h5.parts"
    shards.mkdir()
    left_out_path(shards, 0).write_bytes(LeftOut(0, 1, "of another collection").to_bytes())
    config = CollectConfig(out=tmp_path / "a.h5", episodes=2, image_size=16, max_steps=2, workers=1)
    result = collect(config)
    assert (result.episodes, result.left_out) == (2, ())
    with EpisodeStore(config.path) as store:
        assert store.meta["left_out"] == []


def test_a_damaged_mark_is_no_mark(tmp_path: Path) -> None:
    left_out_path(tmp_path, 3).write_text('{"episode": 3')
    assert load_left_out(tmp_path, 3) is None and load_left_out(tmp_path, 4) is None


@pytest.mark.parametrize("column", ["proprio", "goal_state"])
def test_numbers_that_are_not_finite_are_a_failure(column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CollectConfig(image_size=16, max_steps=4, policies={"random": 1})
    player = Player(config)
    if column == "proprio":
        monkeypatch.setattr(player.task, "proprio", lambda: np.full(player.task.proprio_size, np.nan, np.float32))
    else:
        info = player.task.info
        monkeypatch.setattr(player.task, "info", lambda: info() | {"goal_state": np.full_like(info()["state"], np.inf)})
    broken = player.task
    failed = player.record(5)
    assert isinstance(failed, LeftOut) and failed.episode == 5 and column in failed.error and "not finite" in failed.error
    assert player.task is not broken
    episode = player.record(5)
    assert not isinstance(episode, LeftOut) and np.isfinite(episode.state).all() and episode.seed == failed.seed


@pytest.mark.parametrize("damage", [{"episode": 4}, {"episode": "3"}, {"seed": "7"}, {"error": None}, {"wings": 2}])
def test_a_damaged_mark_is_none(tmp_path: Path, damage: dict[str, Any]) -> None:
    left_out_path(tmp_path, 3).write_bytes(LeftOut(3, 7, "fell off").to_bytes())
    assert load_left_out(tmp_path, 3) == LeftOut(3, 7, "fell off")
    left_out_path(tmp_path, 3).write_text(json.dumps({"episode": 3, "seed": 7, "error": "fell off"} | damage))
    assert load_left_out(tmp_path, 3) is None
