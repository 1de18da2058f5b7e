from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.episodes.statistics import column_statistics, summarize
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes

VALUES = st.floats(-1e6, 1e6, allow_nan=False) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0])


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 40), st.integers(0, 3)), elements=VALUES))
def test_numbers_count_and_others_are_left_out(rows: np.ndarray) -> None:
    found = summarize(rows)
    for component in range(rows.shape[1]):
        values = rows[np.isfinite(rows[:, component]), component]
        assert found["count"][component] == len(values)
        if len(values) == 0:
            assert all(np.isnan(found[name][component]) for name in found if name != "count")
            continue
        assert (found["min"][component], found["max"][component]) == (values.min(), values.max())
        np.testing.assert_allclose(found["mean"][component], sum(values) / len(values), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found["std"][component], values.std(), rtol=1e-9)
        for name, share in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
            assert found[name][component] == np.sort(values)[int(np.ceil(share * len(values))) - 1]


def test_columns_of_a_file(tmp_path: Path) -> None:
    episodes = write_toy_file(tmp_path / "toy.h5", (5, 3, 40, 7))
    with EpisodeStore(tmp_path / "toy.h5") as store:
        found = column_statistics(store)
        few = column_statistics(store, max_frames=2)
    for name in ("proprio", "state", "features", "actions"):
        whole = np.concatenate([getattr(episode, name) for episode in episodes])
        np.testing.assert_allclose(found[name]["mean"], whole.mean(axis=0, dtype=np.float64))
        np.testing.assert_allclose(found[name]["std"], whole.astype(np.float64).std(axis=0))
        assert found[name]["max"].shape == (whole.shape[1],)
    pixels = np.concatenate([episode.frames for episode in episodes]).reshape(-1, 3)
    np.testing.assert_allclose(found["frames"]["mean"], pixels.mean(axis=0))
    assert found["frames"]["count"].tolist() == [len(pixels)] * 3 and few["frames"]["count"].tolist() == [2 * 256] * 3
    assert found["success"]["mean"] == np.concatenate([episode.success for episode in episodes]).mean()


def test_columns_without_width(tmp_path: Path) -> None:
    bare = {"proprio": np.zeros((6, 0), np.float32), "actions": np.zeros((5, 0), np.float32)}
    write_episodes(tmp_path / "video.h5", [make_episode(**bare)], {})
    with EpisodeStore(tmp_path / "video.h5") as store:
        found = column_statistics(store)
    assert found["actions"]["mean"].shape == found["proprio"]["q50"].shape == (0,)
    assert found["state"]["mean"].shape == (7,)
