"""Scores of what a model says, with a model that says what the test wants."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.datasets.toys import make_episode
from worldmodel.agents import language
from worldmodel.agents.language import Accuracy, score_language
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError

TRUE = "a red disc in the left room, near the top"


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
    found = score_language(SimpleNamespace(), SimpleNamespace(), codec, store, [0], count=60)  # type: ignore[arg-type]
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
