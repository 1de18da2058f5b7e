"""LeRobot itself (0.4.4): its class reads a folder written here, and what it writes is read here.

It asks for torch below 2.11, this package for 2.11 and newer: no environment has both, and `make test-interop` skips this file.
Nothing that is tested here imports torch, so that an environment of LeRobot's own runs it:

    python -m venv .venv-lerobot
    .venv-lerobot/bin/pip install lerobot==0.4.4 pytest h5py hdf5plugin imageio-ffmpeg pillow pyarrow simplejpeg tqdm zstandard
    PYTHONPATH=. .venv-lerobot/bin/python -m pytest -rs tests/interop/test_lerobot.py
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datasets.counter import assert_counts, draw_number, read_number, write_counter_file
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.interop import lerobot as ours

LENGTHS = (6, 3, 9)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def dataset_class() -> Any:
    """`LeRobotDataset`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("lerobot", reason="LeRobot is not installed; the head of this file says how to run it")
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
    return LeRobotDataset


@pytest.mark.parametrize("pictures", ["video", "image"])
def test_lerobot_reads_what_is_written_here(dataset_class: Any, tmp_path: Path, pictures: Any) -> None:
    write_counter_file(tmp_path / "a.h5", LENGTHS, size=64)
    ours.write(EpisodeStore(tmp_path / "a.h5"), tmp_path / "b", fps=10, pictures=pictures)
    dataset = dataset_class("worldmodel/counter", root=tmp_path / "b", video_backend="pyav")
    assert (dataset.num_episodes, len(dataset), dataset.fps) == (3, sum(LENGTHS) + 3, 10)
    for row in np.random.default_rng(0).permutation(len(dataset)):
        item = dataset[int(row)]
        episode, t = int(item["episode_index"]), int(item["frame_index"])
        frame = (item["observation.images.main"].numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)
        assert read_number(frame) == 100 * episode + t
        assert float(item["action"]) == 100 * episode + min(t, LENGTHS[episode] - 1)
        assert item["task"] == f"count to {100 * episode + LENGTHS[episode]}"
        assert item["captions"] == f"the number {100 * episode + t}"
    shifts = {"action": [0.0, 0.1], "observation.images.main": [-0.1, 0.0]}
    item = dataset_class("worldmodel/counter", root=tmp_path / "b", video_backend="pyav", delta_timestamps=shifts)[8]
    assert item["action"].flatten().tolist() == [101, 102]


@pytest.mark.parametrize(("pictures", "codec"), [("video", "libsvtav1"), ("video", "h264"), ("image", "h264")])
def test_what_lerobot_writes_is_read_here(dataset_class: Any, tmp_path: Path, pictures: str, codec: str) -> None:
    features = {
        "observation.images.top": {"dtype": pictures, "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": (1,), "names": ["n"]},
    }
    root = tmp_path / "theirs"
    dataset = dataset_class.create("me/counter", 10, features, root=root, use_videos=pictures == "video", vcodec=codec)
    for i, length in enumerate(LENGTHS):
        for t in range(100 * i, 100 * i + length + 1):
            row = {"observation.images.top": draw_number(t, 64), "observation.state": np.full(2, t, np.float32)}
            dataset.add_frame(row | {"action": np.full(1, t, np.float32), "task": f"task {i % 2}"})
        dataset.save_episode()
    dataset.finalize()
    read, meta = ours.read(root)
    for i, (episode, length) in enumerate(zip(read, LENGTHS, strict=True)):
        assert_counts(episode, length, 100 * i)
        assert episode.proprio[:, 1].tolist() == list(range(100 * i, 100 * i + length + 1))
        assert episode.goal_text == f"task {i % 2}"
    assert (meta["fps"], meta["action_names"]) == (10, ["n"])
