from pathlib import Path

import numpy as np
import pytest

from tests.datasets.toys import write_toy_file
from worldmodel.benchmarks.plain_readers import H5pyClips, MemmapClips
from worldmodel.datasets.episodes.clips import ClipDataset


@pytest.mark.parametrize("reader", [H5pyClips, MemmapClips])
def test_a_plain_reader_gives_the_clips_of_the_episode_file(reader: type[H5pyClips], tmp_path: Path) -> None:
    write_toy_file(tmp_path / "toy.h5", (5, 3, 40, 7), size=8)
    clips, plain = ClipDataset(tmp_path / "toy.h5", 3), reader(tmp_path / "toy.h5", 4, tmp_path / "plain.h5")
    places = np.random.default_rng(0).permutation(len(clips))
    expected, found = clips.batch(places), plain.batch(places)
    assert found.keys() == expected.keys() == {"frames", "actions"}
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype
    assert plain.frame_bytes > 0
