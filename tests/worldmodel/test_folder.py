"""What a folder is for is noted once; the reading of its files is tested with the checkpoints and codecs."""

from pathlib import Path

import pytest

from worldmodel.errors import UserError
from worldmodel.folder import read_json, same_settings, write_json

SETTINGS = {"train": {"lr": 0.1, "betas": (0.9, 0.95)}, "data": "abc"}


def test_the_same_settings_go_on_and_others_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    same_settings(path, SETTINGS)
    before = path.read_bytes()
    same_settings(path, SETTINGS)  # a tuple is a list in JSON
    with pytest.raises(UserError, match=f"{tmp_path} .*: train.lr was 0.1 and is now 0.2; name another folder"):
        same_settings(path, SETTINGS | {"train": {"lr": 0.2, "betas": (0.9, 0.95)}})
    with pytest.raises(UserError, match="seed was not there and is now 0"):
        same_settings(path, SETTINGS | {"seed": 0})
    many = SETTINGS | {f"x{k}": k for k in range(6)}
    with pytest.raises(UserError, match="x3 was not there and is now 3, and 2 more; name"):
        same_settings(path, many)
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_what_cannot_be_read_is_told_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    with pytest.raises(UserError, match="card.json is missing: the folder is not whole, start again"):
        read_json(path, "start again")
    write_json(path, {"a": [1]})
    assert read_json(path) == {"a": [1]}
    for content, words in ((b'{"a": ', "is damaged"), (b"\xff\xfe", "is damaged"), (b"[]", "holds list, expected a JSON object")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"card.json {words}.*: use another folder"):
            read_json(path)
