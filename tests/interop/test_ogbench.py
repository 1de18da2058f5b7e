"""OGBench's own loader reads what is written here, and what it returns, saved again, is read here."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datasets.counter import assert_counts, read_numbers, write_counter_file
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.interop import ogbench as ours

LENGTHS = (6, 3)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def utils() -> Any:
    """Its module with the loader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("ogbench.utils")


@pytest.mark.parametrize("compact", [True, False])
def test_transitions_are_the_same_on_both_sides(utils: Any, tmp_path: Path, compact: bool) -> None:
    write_counter_file(tmp_path / "ours.h5", LENGTHS, action_size=2)
    with EpisodeStore(tmp_path / "ours.h5") as store:
        ours.write(store, tmp_path / "theirs.npz")
    data = utils.load_dataset(tmp_path / "theirs.npz", ob_dtype=np.uint8, compact_dataset=compact)
    valid = data["valids"] > 0 if compact else np.ones(len(data["actions"]), np.bool_)
    numbers = [*range(6), *range(100, 103)]
    assert read_numbers(data["observations"][valid]) == data["actions"][valid, 0].tolist() == numbers
    if not compact:
        assert read_numbers(data["next_observations"]) == [n + 1 for n in numbers]
        assert data["terminals"].tolist() == [0] * 5 + [1] + [0] * 2 + [1]
    np.savez(tmp_path / "again.npz", **data)
    episodes, _ = ours.read(tmp_path / "again.npz")
    for i, episode in enumerate(episodes):
        assert_counts(episode, LENGTHS[i], first=100 * i)
