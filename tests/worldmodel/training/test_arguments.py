"""The arguments of a run: they come back, damaged ones are one sentence, and changed data are refused."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from worldmodel.datasets.mixture.training_data import MixtureConfig
from worldmodel.errors import UserError
from worldmodel.presets import tiny
from worldmodel.training.arguments import read_arguments, refuse_changed_data, write_arguments


@pytest.fixture
def arguments(tmp_path: Path) -> Path:
    """A run's arguments."""
    given = {"codec": tmp_path / "codec", "data": (tmp_path / "x.h5",), "vocab_size": 300, "mixture": asdict(MixtureConfig())}
    write_arguments(tmp_path, given | {"preset": asdict(tiny())})
    return tmp_path / "arguments.json"


def test_arguments_come_back(arguments: Path) -> None:
    found = read_arguments(arguments.parent)
    assert (found.codec, found.data) == (arguments.parent / "codec", (arguments.parent / "x.h5",))
    assert (found.vocab_size, found.mixture, found.preset) == (300, MixtureConfig(), tiny())


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept.update(mixture=[]),
        lambda kept: kept["mixture"].update(held_out="much"),
        lambda kept: kept["mixture"].update(wings=2),
        lambda kept: kept.update(codec=5),
        lambda kept: kept.update(codec="a\0b"),
        lambda kept: kept.update(data="x.h5"),
        lambda kept: kept.update(data=[["x.h5"]]),
        lambda kept: kept.update(vocab_size="many"),
        lambda kept: kept.update(preset=None),
        lambda kept: kept["preset"]["train"].update(lr=float("inf")),
        lambda kept: kept["preset"]["model"]["trunk"].update(width=[1]),
        lambda kept: kept.clear(),
    ],
)
def test_damaged_arguments_are_one_sentence(arguments: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(arguments.read_text())
    damage(record["arguments"])
    arguments.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"arguments.json|mixture|held_out"):
        read_arguments(arguments.parent)


@pytest.mark.parametrize("content", [b"{" * 100_000, b'{"arguments": ' * 500, b"\xff\xfe\x00", b"[]", b"", b'{"kind": "run"}'])
def test_files_that_are_no_arguments(arguments: Path, content: bytes) -> None:
    arguments.write_bytes(content)
    with pytest.raises(UserError, match="arguments.json"):
        read_arguments(arguments.parent)


def test_a_run_is_not_gone_on_with_when_its_data_have_changed(tmp_path: Path) -> None:
    refuse_changed_data(tmp_path, ["a", "b"])
    (tmp_path / "config.json").write_text(json.dumps({"card": {"trained_on": ["a", "b", "c"]}}))
    refuse_changed_data(tmp_path, ["c", "a", "b"])
    with pytest.raises(
        UserError, match="have changed since it was begun: of 3 episodes that it trained on 1 are not there.*2 are new"
    ):
        refuse_changed_data(tmp_path, ["a", "b", "d", "e"])
    (tmp_path / "config.json").write_text(json.dumps({"card": {}}))
    refuse_changed_data(tmp_path, ["d"])
