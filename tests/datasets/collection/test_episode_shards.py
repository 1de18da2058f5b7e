from pathlib import Path

import numpy as np
import pytest
import zstandard

from tests.datasets.toys import make_episode
from worldmodel.datasets.collection.episode_shards import load_shard, save_shard, shard_path
from worldmodel.datasets.episodes.episode import same_episode


def test_gives_back_what_was_written(tmp_path: Path) -> None:
    path = shard_path(tmp_path, 12)
    save_shard(path, make_episode(3, num_actions=30))
    assert same_episode(load_shard(path), make_episode(3, num_actions=30))
    assert [file.name for file in tmp_path.iterdir()] == ["episode_000012.part"]


def test_columns_of_no_width(tmp_path: Path) -> None:
    bare = make_episode(
        0, proprio=np.zeros((6, 0), np.float32), state=np.zeros((6, 0)), features=np.zeros((6, 0), np.float32), goal_state=np.zeros(0)
    )
    save_shard(shard_path(tmp_path, 0), bare)
    assert same_episode(load_shard(shard_path(tmp_path, 0)), bare)


def test_truncated_part_is_an_error(tmp_path: Path) -> None:
    path = shard_path(tmp_path, 0)
    save_shard(path, make_episode())
    content = path.read_bytes()
    for place in np.linspace(0, len(content) - 1, 20).astype(int):
        path.write_bytes(content[:place])
        with pytest.raises(ValueError, match="is damaged"):
            load_shard(path)


def content(header: bytes, arrays: bytes = b"") -> bytes:
    return zstandard.compress(len(header).to_bytes(8, "little") + header + arrays)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89HDF",
        zstandard.compress(b""),
        zstandard.compress(b"\xff" * 8),
        content(b"[]"),
        content(b"{}"),
        content(b'{"arrays": [["frames", "|O", [1]]]}', b"\0" * 8),
        content(b'{"arrays": [], "seed": 1}'),
        content(b'{"arrays": [["frames", "|u1", [1000000]]]}', b"short"),
        content(b"\xff\xfe"),
    ],
)
def test_a_part_of_something_else_is_an_error(data: bytes, tmp_path: Path) -> None:
    path = shard_path(tmp_path, 0)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="episode_000000.part is damaged"):
        load_shard(path)
