from pathlib import Path

import numpy as np
import pytest

from tests.datasets.toys import make_episode
from worldmodel.datasets.episode import same_episode
from worldmodel.datasets.parts import load_part, part_path, save_part


def test_gives_back_what_was_written(tmp_path: Path) -> None:
    path = part_path(tmp_path, 12)
    save_part(path, make_episode(3, num_actions=30))
    assert same_episode(load_part(path), make_episode(3, num_actions=30))
    assert [file.name for file in tmp_path.iterdir()] == ["episode_000012.part"]


def test_truncated_part_is_an_error(tmp_path: Path) -> None:
    path = part_path(tmp_path, 0)
    save_part(path, make_episode())
    content = path.read_bytes()
    for place in np.linspace(0, len(content) - 1, 20).astype(int):
        path.write_bytes(content[:place])
        with pytest.raises((OSError, KeyError, ValueError)):
            load_part(path)
