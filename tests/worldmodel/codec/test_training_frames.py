from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.toys import make_episode
from worldmodel.codec.training_frames import codec_data, open_frames, probe_targets, some_of
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.mixture.training_data import MixtureConfig, TrainingData, open_training_data
from worldmodel.errors import UserError

MIXTURE = MixtureConfig(text=0, pictures=0, clip_length=1, action_block=1, held_out=0.25)


def write(path: Path, first: int, episodes: int, names: list[str], **columns: np.ndarray) -> Path:
    written = [replace(make_episode(first + i, 5, 4), **columns) for i in range(episodes)]
    write_episodes(path, written, {"env_id": "toy", "seed": 0, "feature_names": names})
    return path


@pytest.fixture
def two_files(tmp_path: Path) -> TrainingData:
    """Eight episodes with two true variables each, and four with what the robot felt alone."""
    nothing = np.zeros((6, 0), np.float32)
    named = write(tmp_path / "named.h5", 0, 8, ["x", "y"])
    felt = write(tmp_path / "felt.h5", 50, 4, [], features=nothing)
    return open_training_data([named, felt], MIXTURE)


def test_frames_and_variables_of_several_files_stay_together(two_files: TrainingData) -> None:
    data = codec_data(two_files)
    assert data.feature_names == ("named.x", "named.y", "felt.proprio_0", "felt.proprio_1", "felt.proprio_2")
    assert len(data.frames) == 6 * 12 and len(data.train) == 6 * 9 and len(data.validation) == 6 * 3
    assert sorted([*data.train, *data.validation]) == list(range(6 * 12))
    for row, (frame, episode, features) in enumerate(zip(data.frames, data.episode, data.features, strict=True)):
        which, own = divmod(int(episode), 8)  # the second file's episodes come after the eight of the first
        toy = make_episode(50 + own if which else own, 5, 4)
        t = [frame.tobytes() == each.tobytes() for each in toy.frames].index(True)
        held_out = two_files.held_out_episodes[which]
        assert (row in data.validation) == (own in held_out)
        if which == 0:
            assert np.array_equal(features, [*toy.features[t], 0, 0, 0])
        else:
            assert not features[:2].any()
    felt = data.features[data.episode >= 8, 2:]
    assert felt.mean(axis=0) == pytest.approx(0, abs=1e-5) and felt.std(axis=0) == pytest.approx(1, abs=1e-5)


def test_of_too_many_frames_whole_episodes_are_chosen(two_files: TrainingData) -> None:
    data = codec_data(two_files, max_frames=36)  # half of them
    episodes, counts = np.unique(data.episode, return_counts=True)
    assert set(counts) == {6} and len(episodes) == 3 + 1 + 2 + 1
    again = codec_data(two_files, max_frames=36)
    assert np.array_equal(again.frames, data.frames) and again.fingerprint() == data.fingerprint()
    one_each = codec_data(two_files, max_frames=1)
    assert len(np.unique(one_each.episode)) == 4 and len(one_each.train) and len(one_each.validation)


@pytest.mark.parametrize(("column", "name"), [("state", "state"), ("neither", None)])
def test_files_without_features_are_probed_for_what_they_have(tmp_path: Path, column: str, name: str | None) -> None:
    nothing = np.zeros((6, 0), np.float32)
    state = {} if name else {"state": np.zeros((6, 0)), "goal_state": np.zeros(0)}
    path = write(tmp_path / "bare.h5", 0, 4, [], features=nothing, proprio=nothing, **state)
    names, values = probe_targets(EpisodeStore(path), [1, 3])
    assert names == ([f"{name}_{k}" for k in range(7)] if name else []) and values.shape == (12, len(names))
    data = codec_data(open_training_data([path], MIXTURE))
    assert data.features.shape == (24, 7 if name else 1) and len(data.feature_names) == data.features.shape[1]


def test_large_columns_are_read_for_the_chosen_episodes_alone(two_files: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(store: EpisodeStore, name: str) -> np.ndarray:
        raise AssertionError(f"all of {name} was read")

    monkeypatch.setattr(EpisodeStore, "column", refuse)
    assert len(codec_data(two_files, max_frames=36).features)


def test_some_of_keeps_the_order_and_at_least_one() -> None:
    assert some_of([5, 3, 8], 1.0) == [5, 3, 8] and some_of([5, 3, 8], 7.0) == [5, 3, 8]
    assert len(some_of([5, 3, 8], 0.0)) == 1
    half = some_of(range(100), 0.5)
    assert len(set(half)) == 50 and half == sorted(half)


def test_a_codec_needs_frames_of_episodes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "text.toml").write_text('[[source]]\nkind = "text"\nweight = 1\ncorpus = "a.jsonl"\n')
    with pytest.raises(UserError, match="give episode files with --data"):
        codec_data(open_frames([], MixtureConfig(recipe=str(tmp_path / "text.toml"))))


def test_only_what_has_frames_is_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A corpus that is missing, captions that no file has and clips longer than any episode are none of a codec's business."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for k in range(4):
        Image.fromarray(np.full((8, 8, 3), 50 * k, np.uint8)).save(pictures / f"{k}.png")
        (pictures / f"{k}.txt").write_text(f"grey {k}")
    path = write(tmp_path / "bare.h5", 0, 8, [], captions=[""] * 6)
    shares = MixtureConfig(caption=0.5, text=0.5, corpora=("missing.txt",), pairs=(str(pictures),), clip_length=99, held_out=0.25)
    data = codec_data(open_frames([path], shares))
    assert data.extra is not None and len(data.extra) == 3 and not caplog.records
    usual = codec_data(open_training_data([path], replace(MIXTURE, pictures=0.1, pairs=(str(pictures),), caption=0)))
    assert data.fingerprint() == usual.fingerprint()
    assert data.extra_validation is not None and np.array_equal(data.extra_validation, usual.extra_validation)
