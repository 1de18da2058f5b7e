from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.toys import write_toy_file
from worldmodel.datasets.documents import Action, Frame, Text
from worldmodel.datasets.episode import Episode
from worldmodel.datasets.sources import (
    ActionVideoSource,
    CaptionedImageSource,
    CaptionSource,
    ClipSampler,
    QuestionSource,
    Source,
    VideoSource,
)
from worldmodel.datasets.store import EpisodeStore
from worldmodel.errors import UserError


@pytest.fixture
def episodes(tmp_path: Path) -> list[Episode]:
    return write_toy_file(tmp_path / "toy.h5", lengths=(5, 3, 40, 7), size=4)


@pytest.fixture
def store(tmp_path: Path, episodes: list[Episode]) -> EpisodeStore:
    return EpisodeStore(tmp_path / "toy.h5", in_memory=True)


def test_every_place_where_a_clip_fits_is_drawn_equally(store: EpisodeStore) -> None:
    sampler = ClipSampler(store, [0, 1, 3], length=2, action_block=2)
    rng = np.random.default_rng(0)
    clips = [sampler.draw(rng) for _ in range(1200)]
    drawn = Counter((clip.episode, clip.start) for clip in clips)
    assert set(drawn) == {(0, 0), (0, 1), (3, 0), (3, 1), (3, 2), (3, 3)}  # episode 1 is too short
    assert min(drawn.values()) > 140  # 200 each, standard deviation 13
    assert all(clip.frames.shape == (3, 4, 4, 3) and clip.actions.shape == (2, 4) for clip in clips)


@pytest.mark.parametrize("chosen", [[0, 1], []])
def test_no_episode_long_enough_is_refused(store: EpisodeStore, chosen: list[int]) -> None:
    with pytest.raises(UserError, match="none of .* holds a clip of 6 steps"):
        ClipSampler(store, chosen, length=6)


def test_no_frames_to_draw_is_refused(store: EpisodeStore) -> None:
    with pytest.raises(UserError, match="no episode"):
        CaptionSource(store, [])


def test_captions_questions_and_pictures_belong_together(store: EpisodeStore, episodes: list[Episode]) -> None:
    places = {episodes[i].frames[t].tobytes(): (i, t) for i in (0, 2) for t in range(len(episodes[i]) + 1)}
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(100):
        frame, caption = CaptionSource(store, [0, 2]).document(rng)
        i, t = places[frame.pixels.tobytes()]
        assert caption == Text(episodes[i].captions[t]) and not frame.predict
        seen.add((i, t))
        caption, frame = CaptionedImageSource(store, [0, 2]).document(rng)
        i, t = places[frame.pixels.tobytes()]
        assert caption == Text(episodes[i].captions[t], predict=False) and frame.predict
        frame, question, answer = QuestionSource(store, [0, 2]).document(rng)
        i, t = places[frame.pixels.tobytes()]
        assert (question.text, answer.text) == (episodes[i].questions[t], episodes[i].answers[t])
    assert (0, 0) in seen or (0, 5) in seen  # the first and the last frame count too
    assert len(seen) > 30


def test_clips_as_documents(store: EpisodeStore) -> None:
    rng = np.random.default_rng(0)
    document = ActionVideoSource(store, [2], length=3, action_block=2).document(rng)
    assert [type(segment) for segment in document] == [Frame, Action, Frame, Action, Frame, Action, Frame]
    assert document[1].vector.shape == (4,) and document[1].text.count("; ") == 1
    assert [type(segment) for segment in VideoSource(store, [2], length=3).document(rng)] == [Frame] * 4


def test_equal_generators_give_equal_documents(store: EpisodeStore) -> None:
    sources: list[Source] = [VideoSource(store, [0, 2], 3), QuestionSource(store, [0, 2])]
    for source in sources:
        first, second = (source.document(np.random.default_rng(5)) for _ in range(2))
        assert [s.pixels.tobytes() for s in first if isinstance(s, Frame)] == [
            s.pixels.tobytes() for s in second if isinstance(s, Frame)
        ]
