from pathlib import Path

import numpy as np
import pytest

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.mixture.documents import Action, Frame, Text
from worldmodel.datasets.mixture.frame_sources import CaptionedImageSource, CaptionSource, InstructionSource, QuestionSource
from worldmodel.datasets.mixture.samplers import ClipSampler
from worldmodel.datasets.mixture.source import JoinedSource, Source
from worldmodel.datasets.mixture.video_sources import ActionVideoSource, ChangeSource, VideoSource
from worldmodel.errors import UserError


@pytest.fixture
def episodes(tmp_path: Path) -> list[Episode]:
    return write_toy_file(tmp_path / "toy.h5", lengths=(5, 3, 40, 7), size=4)


@pytest.fixture
def store(tmp_path: Path, episodes: list[Episode]) -> EpisodeStore:
    return EpisodeStore(tmp_path / "toy.h5", in_memory=True)


def every(source: Source, seed: int = 0) -> list:
    return [source.document(item, np.random.default_rng(seed)) for item in range(len(source))]


def test_every_place_where_a_clip_fits_is_an_item(store: EpisodeStore) -> None:
    sampler = ClipSampler(store, [0, 1, 3], length=2, action_block=2)
    clips = [sampler.clip(place) for place in range(len(sampler))]
    assert [(clip.episode, clip.start) for clip in clips] == [(0, 0), (0, 1), (3, 0), (3, 1), (3, 2), (3, 3)]  # episode 1 is too short
    assert all(clip.frames.shape == (3, 4, 4, 3) and clip.actions.shape == (2, 4) for clip in clips)
    drawn = [sampler.draw(rng) for rng in [np.random.default_rng(0)] for _ in range(60)]
    assert {(clip.episode, clip.start) for clip in drawn} == {(clip.episode, clip.start) for clip in clips}


@pytest.mark.parametrize("chosen", [[0, 1], []])
def test_no_episode_long_enough_is_refused(store: EpisodeStore, chosen: list[int]) -> None:
    with pytest.raises(UserError, match="none of .* holds a clip of 6 steps"):
        ClipSampler(store, chosen, length=6)


def test_no_frames_to_draw_is_refused(store: EpisodeStore) -> None:
    with pytest.raises(UserError, match="no episode"):
        CaptionSource(store, [])


def test_captions_questions_and_pictures_belong_together(store: EpisodeStore, episodes: list[Episode]) -> None:
    places = [(i, t) for i in (0, 2) for t in range(len(episodes[i]) + 1)]
    captions, images, questions = (every(make(store, [0, 2])) for make in (CaptionSource, CaptionedImageSource, QuestionSource))
    assert len(captions) == len(images) == len(questions) == len(places)
    for (i, t), (frame, caption), (given, drawn) in zip(places, captions, images, strict=True):
        assert frame.pixels.tobytes() == drawn.pixels.tobytes() == episodes[i].frames[t].tobytes()
        assert caption == Text(episodes[i].captions[t]) and not frame.predict
        assert given == Text(episodes[i].captions[t], predict=False) and drawn.predict
    for (i, t), (frame, question, answer) in zip(places, questions, strict=True):
        if episodes[i].answers[t]:
            assert frame.pixels.tobytes() == episodes[i].frames[t].tobytes()
            assert (question.text, answer.text) == (episodes[i].questions[t], episodes[i].answers[t])
        else:  # nothing was asked: another frame with its own question and answer
            assert answer.text and answer.text.removeprefix("left ") == question.text.split()[-1].replace("/", ".")


def test_a_file_of_mostly_empty_texts_is_refused_in_the_end(tmp_path: Path) -> None:
    write_episodes(tmp_path / "empty.h5", [make_episode(0, captions=[""] * 6)], {"env_id": "toy", "seed": 0})
    with pytest.raises(UserError, match="empty.h5: 1000 places in a row have no text"):
        CaptionSource(EpisodeStore(tmp_path / "empty.h5", in_memory=True), [0]).document(0, np.random.default_rng(0))


def test_clips_as_documents(store: EpisodeStore, episodes: list[Episode]) -> None:
    rng = np.random.default_rng(0)
    document = ActionVideoSource(store, [2], length=3, action_block=2).document(1, rng)
    assert [type(segment) for segment in document] == [Frame, Action, Frame, Action, Frame, Action, Frame]
    assert document[1].vector.shape == (4,) and document[1].text == "action: 2 1; action: 2 2"
    assert document[1].words == "move 2.1; move 2.2"
    video = VideoSource(store, [2], length=3).document(0, rng)
    assert [frame.pixels.tobytes() for frame in video] == [frame.tobytes() for frame in episodes[2].frames[:4]]


def test_changes_stand_behind_the_two_frames_they_are_of(store: EpisodeStore, episodes: list[Episode]) -> None:
    source = ChangeSource(store, [3], action_block=2)
    assert len(source) == 6
    for t, (before, after, text) in enumerate(every(source)):
        assert before.pixels.tobytes() == episodes[3].frames[t].tobytes() and not before.predict
        assert after.pixels.tobytes() == episodes[3].frames[t + 2].tobytes() and not after.predict
        assert text == Text(f"the disc moved 3.{t}; the disc moved 3.{t + 1}")


def test_instructions_stand_between_a_frame_and_the_first_that_fulfils_them(tmp_path: Path) -> None:
    reached = np.array([False, False, False, True, False, True])
    written = [
        make_episode(0, success=reached),
        make_episode(1, success=np.zeros(6, bool)),
        make_episode(2, success=np.ones(6, bool)),  # there was nothing to do
        make_episode(3, success=reached, goal_text=""),
        make_episode(4, success=np.roll(reached, 1)),
    ]
    write_episodes(tmp_path / "goals.h5", written, {"env_id": "toy", "seed": 0})
    store = EpisodeStore(tmp_path / "goals.h5")
    source = InstructionSource(store, range(5))
    assert len(source) == 3  # of episode 0 alone: rolled, episode 4 succeeds from its first frame on
    for t, (frame, text, goal) in enumerate(every(source)):
        assert frame.pixels.tobytes() == written[0].frames[t].tobytes() and not frame.predict
        assert text == Text("goal 0", predict=False)
        assert goal.pixels.tobytes() == written[0].frames[3].tobytes() and goal.predict
    with pytest.raises(UserError, match="none of 2 episodes has an instruction"):
        InstructionSource(store, [1, 3])


def test_joined_sources_count_by_their_items(store: EpisodeStore) -> None:
    parts = [VideoSource(store, [i], length=3) for i in (0, 2, 3)]
    joined = JoinedSource("all", parts)
    assert joined.name == "all" and len(joined) == sum(map(len, parts)) == 3 + 38 + 5
    documents = [document for part in parts for document in every(part)]
    assert [a[0].pixels.tobytes() for a in every(joined)] == [b[0].pixels.tobytes() for b in documents]


def test_equal_generators_give_equal_documents(store: EpisodeStore) -> None:
    sources: list[Source] = [VideoSource(store, [0, 2], 3), QuestionSource(store, [0, 2]), ChangeSource(store, [0])]
    for source in sources:
        first, second = (source.document(0, np.random.default_rng(5)) for _ in range(2))
        assert [getattr(s, "text", None) for s in first] == [getattr(s, "text", None) for s in second]
        assert [s.pixels.tobytes() for s in first if isinstance(s, Frame)] == [
            s.pixels.tobytes() for s in second if isinstance(s, Frame)
        ]
