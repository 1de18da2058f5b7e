"""What a folder is for is noted once; the reading of its files is tested with the checkpoints and codecs."""

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from worldmodel.datasets.atomic import DISK_FULL
from worldmodel.datasets.records import DEEPEST, parse_json, shortened
from worldmodel.errors import UserError
from worldmodel.serialization import check_or_write_config, count_numbers, read_json, read_tensors, write_json, write_tensors

SETTINGS = {"train": {"lr": 0.1, "betas": (0.9, 0.95)}, "data": "abc"}


def test_the_same_settings_go_on_and_others_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    check_or_write_config(path, SETTINGS)
    before = path.read_bytes()
    check_or_write_config(path, SETTINGS)  # a tuple is a list in JSON
    with pytest.raises(UserError, match=f"{tmp_path} .*: train.lr was 0.1 and is now 0.2; name another folder"):
        check_or_write_config(path, SETTINGS | {"train": {"lr": 0.2, "betas": (0.9, 0.95)}})
    with pytest.raises(UserError, match="seed was not there and is now 0"):
        check_or_write_config(path, SETTINGS | {"seed": 0})
    many = SETTINGS | {f"x{k}": k for k in range(6)}
    with pytest.raises(UserError, match="x3 was not there and is now 3, and 2 more; name"):
        check_or_write_config(path, many)
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_what_cannot_be_read_is_told_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    with pytest.raises(UserError, match="card.json is missing: the folder is not whole, start again"):
        read_json(path, "start again")
    write_json(path, {"a": [1]})
    assert read_json(path) == {"a": [1]}
    damaged = [b'{"a": ', b"\xff\xfe", b'{"a":' * 200_000, b'{"a": ' + b"[" * 150 + b"]" * 150 + b"}", b'{"a": ' + b"1" * 5000 + b"}"]
    for content, words in [*((each, "is damaged") for each in damaged), (b"[]", "holds list, expected a JSON object")]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"card.json {words}.*: use another folder"):
            read_json(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"card.json cannot be read \(Is a directory\)"):
        read_json(path)


def test_numbers_that_are_not_finite_are_no_weights(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    save_file(layer.state_dict() | {"bias": torch.tensor([0.0, float("nan")])}, tmp_path / "x")
    assert count_numbers(tmp_path / "x") == 6
    before = layer.bias.detach().clone()
    with pytest.raises(UserError, match=r"not finite, in 1 tensors \(first: bias\)"):
        read_tensors(layer, tmp_path / "x")
    assert torch.equal(layer.bias, before)
    (tmp_path / "folder").mkdir()
    for name in ("folder", "missing"):
        with pytest.raises(UserError, match=f"{name} (is missing|cannot be read|is damaged)"):
            read_tensors(layer, tmp_path / name)


def test_json_of_other_people(tmp_path: Path) -> None:
    assert parse_json('{"a": [[1]]}') == {"a": [[1]]} and parse_json(b"[{}]") == [{}]
    wide = [[1]] * 500
    assert parse_json(str(wide)) == wide, "many lists beside each other are not deep"
    for depth, right in ((DEEPEST - 1, True), (DEEPEST + 1, False), (10**6, False)):
        if right:
            parse_json("[" * depth + "]" * depth)
            continue
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json("[" * depth + "]" * depth)
    assert len(shortened("x" * 10**6)) < 200


def test_a_full_disk_is_the_systems_error_and_leaves_the_old_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors({"a": torch.ones(3)}, path, {"step": "1"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="x.safetensors") as refused:
            write_tensors({"a": torch.ones(3000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.errno in DISK_FULL and count_numbers(path) == 3 and list(tmp_path.iterdir()) == [path]
