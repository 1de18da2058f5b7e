"""The held-out side of a mixture: nothing of it is ever trained on, and nothing else is in it."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.datasets.toys import make_episode
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.mixture.documents import Frame, Text
from worldmodel.datasets.mixture.source import Source
from worldmodel.datasets.mixture.training_data import MixtureConfig, TrainingData, open_training_data

EPISODES, COUNT = 10, 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    folder = tmp_path_factory.mktemp("mixture")
    write_episodes(folder / "toy.h5", [make_episode(i, 4, 8) for i in range(EPISODES)], {"env_id": "toy", "seed": 0})
    (folder / "speech.jsonl").write_text("\n".join(json.dumps({"text": f"speech number {i}"}) for i in range(COUNT)))
    (folder / "pictures").mkdir()
    for i in range(COUNT):
        Image.new("RGB", (8, 8), (i * 10, 0, 0)).save(folder / "pictures" / f"{i}.png")
        (folder / "pictures" / f"{i}.txt").write_text(f"shade number {i}")
    shares = dict(change=0.1, instruction=0.1, action_video=0.1)
    others = dict(corpora=(str(folder / "speech.jsonl"),), pairs=(str(folder / "pictures"),))
    return open_training_data([folder / "toy.h5"], MixtureConfig(clip_length=2, action_block=1, held_out=0.3, **shares, **others))  # type: ignore[arg-type]


def episodes_of(source: Source) -> set[int]:
    known = {frame.tobytes(): i for i in range(EPISODES) for frame in make_episode(i, 4, 8).frames}
    rng = np.random.default_rng(0)
    documents = [source.document(item, rng) for item in range(len(source))]
    return {known[each.pixels.tobytes()] for document in documents for each in document if isinstance(each, Frame)}


def numbers_of(source: Source) -> set[int]:
    rng = np.random.default_rng(0)
    documents = [source.document(item, rng) for item in range(len(source))]
    return {int(each.text.split()[-1]) for document in documents for each in document if isinstance(each, Text)}


def test_held_out_sources_show_held_out_episodes_alone(data: TrainingData) -> None:
    held_out = set(data.held_out_episodes[0])
    assert len(held_out) == 3
    kinds = {part.kind for part in data.held_out_parts} - {"text", "pairs"}
    assert kinds >= {"transition", "goal", "video", "action video", "caption", "captioned image", "question", "change"}
    for part in data.held_out_parts:
        if part.kind in kinds:
            assert episodes_of(part.source) <= held_out, part.kind
    unmoved = [part for part in data.parts if part.kind in ("caption", "video", "question", "action video")]
    for part in unmoved:
        assert episodes_of(part.source) == set(data.train_episodes[0]), part.kind


def test_held_out_sources_show_held_out_texts_and_pictures(data: TrainingData) -> None:
    for kind in ("text", "pairs"):
        [train], [rest] = ([part.source for part in parts if part.kind == kind] for parts in (data.parts, data.held_out_parts))
        assert numbers_of(train).isdisjoint(numbers_of(rest)) and numbers_of(train) | numbers_of(rest) == set(range(COUNT))
        assert len(numbers_of(rest)) < len(numbers_of(train))
    assert {int(text.split()[-1]) for text in data.held_out_texts} == numbers_of(
        next(part.source for part in data.held_out_parts if part.kind == "text")
    )
