"""Scores of what a model says, with a model that says what the test wants."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.datasets.toys import make_episode
from worldmodel.agents import language
from worldmodel.agents.intervals import wilson
from worldmodel.agents.language import Accuracy, draw_places, room_for, score_language
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError

TRUE = "a red disc in the left room, near the top"


class Letters:
    """A token a letter."""

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    rows = 6
    pairs = [("is the disc red?", "yes"), ("is the disc blue?", "no"), ("what color is the disc?", "red")] * 2
    episode = make_episode(
        0, rows - 1, captions=[TRUE] * rows, questions=[question for question, _ in pairs], answers=[answer for _, answer in pairs]
    )
    write_episodes(tmp_path / "toy.h5", [episode], {"env_id": "worldmodel/TwoRoom-v0", "image_size": 16, "seed": 0})
    return EpisodeStore(tmp_path / "toy.h5")


def score(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch, caption: str, answer: str) -> dict[str, Accuracy]:
    def say(model: Any, tokenizer: Any, latents: Any, questions: list[str] | None = None, max_tokens: int = 0) -> list[str]:
        return [caption if questions is None else answer] * len(latents)

    monkeypatch.setattr(language, "describe_frames", say)
    codec: Any = SimpleNamespace(encode_frames=lambda frames: frames)
    found = score_language(SimpleNamespace(), Letters(), codec, store, [0], count=60)  # type: ignore[arg-type]
    assert len(found.captions) == len(found.answers) == len(found.frames) == 60
    return {accuracy.name: accuracy for accuracy in found.accuracies}


def test_another_phrasing_is_right(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    found = score(store, monkeypatch, "in the left room is a red disc, near the top", "yes")
    assert {name: accuracy.rate for name, accuracy in found.items() if "caption" in name} == {
        "caption, whole": 1.0,
        "caption, color": 1.0,
        "caption, room": 1.0,
        "caption, height": 1.0,
    }


def test_a_missing_attribute_is_wrong(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    found = score(store, monkeypatch, "a red disc in the right room", "red")
    rates = [found[f"caption, {name}"].rate for name in ("whole", "color", "room", "height")]
    assert rates == [0.0, 1.0, 0.0, 0.0]


def test_answers_of_both_kinds_have_a_chance_of_their_own(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    found = score(store, monkeypatch, TRUE, "yes")
    closed, spoken = found["answer, yes or no"], found["answer, open"]
    assert closed.total + spoken.total == 60
    assert 0.2 < closed.rate < 0.8 and spoken.rate == 0.0
    assert spoken.chance == 1.0, "the open question has one answer here: who knows it need not look"
    assert closed.chance == max(closed.rate, 1 - closed.rate)


def test_count_must_be_positive(store: EpisodeStore) -> None:
    with pytest.raises(UserError, match="count is 0"):
        score_language(None, None, None, store, [0], count=0)  # type: ignore[arg-type]


def test_a_caption_that_leaves_an_attribute_out_is_wrong_as_a_whole(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    found = score(store, monkeypatch, "a red disc, near the top", "yes")
    assert found["caption, whole"].rate == 0 and found["caption, room"].rate == 0
    assert found["caption, color"].rate == found["caption, height"].rate == 1


def test_no_true_caption_or_answer_is_cut_off(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    room: list[int] = []

    def say(model: Any, tokenizer: Any, latents: Any, questions: Any = None, max_tokens: int = 0) -> list[str]:
        room.append(max_tokens)
        return [(TRUE if questions is None else "red")[:max_tokens]] * len(latents)

    monkeypatch.setattr(language, "describe_frames", say)
    codec: Any = SimpleNamespace(encode_frames=lambda frames: frames)
    found = score_language(SimpleNamespace(), Letters(), codec, store, [0], count=30)  # type: ignore[arg-type]
    assert found.accuracies[0].rate == 1 and room == [2 * len(TRUE), 2 * len("yes")]
    assert room_for(Letters(), ["", "abc"]) == 6 and room_for(Letters(), [""]) == 2  # type: ignore[arg-type]


def test_frames_are_spread_over_the_episodes() -> None:
    store: Any = SimpleNamespace(lengths=np.full(9, 5))
    places = draw_places(store, [1, 4, 6], 8, np.random.default_rng(0))
    assert sorted(i for i, _ in places[:3]) == sorted(i for i, _ in places[3:6]) == [1, 4, 6] and len(places) == 8
    drawn = [t for _, t in draw_places(store, [1], 200, np.random.default_rng(0))]
    assert set(drawn) == {0, 1, 2, 3, 4, 5}, "the last frame, too"


def test_right_answers_of_one_episode_are_not_counted_as_independent() -> None:
    right = ["yes"] * 10 + ["no"] * 10
    of_episode = np.arange(20) // 5
    alike = language._accuracy("x", right, ["yes"] * 20, of_episode)
    assert alike.interval == pytest.approx(wilson(2, 4)) and (alike.right, alike.total, alike.chance) == (10, 20, 0.5)
    answers = language._answers("x", [("q", answer) for answer in right], ["yes"] * 20, of_episode)
    assert answers.interval == pytest.approx(wilson(2, 4)) and (answers.right, answers.total, answers.chance) == (10, 20, 0.5)
    mixed = language._answers("x", [("q", "yes"), ("q", "no")] * 10, ["yes"] * 20, np.arange(20) // 2)
    assert mixed.interval == pytest.approx(wilson(10, 20)), "right and wrong in each episode alike"
