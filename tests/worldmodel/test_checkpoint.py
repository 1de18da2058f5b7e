"""Checkpoints: what is saved comes back, and a folder that is not right is refused in one sentence."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.worldmodel import toys
from worldmodel.checkpoint import checkpoints, read_checkpoint, save_pretrained
from worldmodel.codec.rae import RAE
from worldmodel.datasets.atomic import atomic_dir
from worldmodel.errors import UserError
from worldmodel.flow import FlowConfig
from worldmodel.model import WorldModel
from worldmodel.serialization import rebuild

CARD = {"trained_on": {"videos": 12, "captions": 3}, "note": "toy"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good checkpoint."""
    path = tmp_path / "checkpoint"
    save_pretrained(path, toys.model("moe"), toys.tokenizer(), toys.codec(), CARD)
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text())
    change(record)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    path.write_text(json.dumps(record))
    sys.setrecursionlimit(limit)


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("flow", [FlowConfig(), FlowConfig(prediction="v", shift=2, logit_normal=False)])
def test_what_is_saved_comes_back(tmp_path: Path, flow: FlowConfig) -> None:
    model, codec, tokenizer = toys.model("moe", flow), toys.codec(), toys.tokenizer()
    model.trunk.blocks[0].feed_forward.balance_bias += 1
    save_pretrained(tmp_path / "a" / "b", model.train(), tokenizer, codec, CARD)
    found = read_checkpoint(tmp_path / "a" / "b")
    assert found.model.config == model.config
    assert not found.model.training
    assert found.card == CARD
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name
    frames = torch.rand(2, 3, toys.IMAGE, toys.IMAGE)
    assert torch.equal(found.codec.encode(frames), codec.encode(frames))
    assert found.tokenizer.encode(toys.WORDS) == tokenizer.encode(toys.WORDS)
    assert found.tokenizer.vocab_size == tokenizer.vocab_size
    batch, none = toys.pack([toys.Sentences().document(0, np.random.default_rng(0))]), toys.random_latents(0)
    assert torch.equal(*(toys.hidden(each, batch, none, none[:, 0, 0]) for each in (model.eval(), found.model)))


def test_a_stem_comes_back(tmp_path: Path) -> None:
    model = toys.model(stem=toys.STEM)
    save_pretrained(tmp_path / "a", model, toys.tokenizer(), toys.codec(), CARD)
    found = read_checkpoint(tmp_path / "a").model
    assert found.config == model.config and found.config.references == 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_a_checkpoint_is_these_files(folder: Path) -> None:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    own = {"config.json", "model.safetensors", "tokenizer.json", "card.json"}
    assert files == own | {"codec/config.json", "codec/model.safetensors"}
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"], "nothing temporary is left"


def test_an_older_checkpoint_is_replaced(folder: Path) -> None:
    save_pretrained(folder, toys.model("shared", seed=1), toys.tokenizer(), toys.codec(), {"note": "newer"})
    assert read_checkpoint(folder).card == {"note": "newer"}
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something that is no checkpoint"):
        save_pretrained(tmp_path, toys.model(), toys.tokenizer(), toys.codec(), CARD)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_save_that_fails_leaves_the_old_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: RAE, path: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(RAE, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(folder, toys.model(seed=1), toys.tokenizer(), toys.codec(), {})
    monkeypatch.undo()
    assert read_checkpoint(folder).card == CARD
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_a_new_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), atomic_dir(tmp_path / "new") as beside:
        (beside / "half").write_text("x")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no checkpoint folder {tmp_path}/none"):
        read_checkpoint(tmp_path / "none")
    with pytest.raises(UserError, match="no config.json"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(kind="rae"), "describes 'rae', not a worldmodel checkpoint"),
        (lambda r: r.update(schema_version=2), "schema version 2, this version of worldmodel reads 1"),
        (lambda r: r.pop("schema_version"), "schema version None"),
        (lambda r: r.pop("model"), "model is None, expected the fields trunk, flow"),
        (lambda r: r["model"].pop("channels"), "model misses channels"),
        (lambda r: r["model"]["trunk"].update(wings=2), "model.trunk has the unknown wings"),
        (lambda r: r["model"]["trunk"].update(width="32"), "model.trunk.width is '32', expected int"),
        (lambda r: r["model"]["trunk"].update(width=True), "model.trunk.width is True, expected int"),
        (
            lambda r: r["model"]["trunk"].update(feed_forward="big"),
            "expected one of 'shared', 'modality', 'moe'",
        ),
        (lambda r: r["model"].update(latent_grid=[2]), r"model.latent_grid is \[2\], expected"),
        (lambda r: r["model"].update(grid=[2, 2]), "model has the unknown grid"),
        (lambda r: r["model"]["stem"].update(width=12), "model.stem: stem width is 12, must be a multiple of 8"),
        (lambda r: r["model"]["flow"].update(shift=-1), "model.flow: shift must be positive, got -1"),
        (lambda r: r["model"].update(channels=4000), "width 32 is below the latents' 4000 channels"),
        (
            lambda r: r["model"].update(latent_grid=[1, 1]),
            "model and codec do not fit: .*tokens per frame is 1",
        ),
        (lambda r: r["model"]["trunk"].update(hidden=48, feed_forward="shared"), "tensors: 4 missing"),
        (lambda r: r["model"]["trunk"].update(depth=10**9), "describes a model far larger than the [0-9,]+ numbers"),
        (lambda r: r["model"]["trunk"].update(hidden=10**12, feed_forward="shared"), "far larger|no model that can be built"),
        (lambda r: r["model"].update(action_dim=2**70), "far larger|no model that can be built"),
        (lambda r: r["model"].update(flow=nested(50)), "model.flow .{20,200}"),
        (lambda r: r.update(model=nested(5000)), "config.json is damaged .it is nested too deeply"),
        (lambda r: r["model"]["flow"].update(shift=float("nan")), "model.flow.shift is nan, expected float"),
        (lambda r: r["model"]["flow"].update(shift=10**400), r"model.flow.shift is 10+\.\.\., expected float"),
    ],
)
def test_a_wrong_config_is_refused(folder: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(folder / "config.json", change)
    with pytest.raises(UserError, match=message) as error:
        read_checkpoint(folder)
    assert "\n" not in str(error.value)


def test_a_value_may_be_of_one_of_several_types() -> None:
    for value in (3, "auto"):
        assert rebuild(int | Literal["auto"], value, "processes") == value
    assert rebuild(float | None, None, "shift") is None and rebuild(float | None, 2, "shift") == 2.0
    with pytest.raises(UserError, match="processes is 'many', expected int"):
        rebuild(int | Literal["auto"], "many", "processes")
    with pytest.raises(UserError, match="shift is 'x', expected float"):
        rebuild(float | None, "x", "shift")
    assert rebuild(dict[str, float], {"a": 1, "b": 0.5}, "losses") == {"a": 1.0, "b": 0.5} and rebuild(list[int], [1], "x") == [1]
    assert [rebuild(tuple[float, ...], [1] * n, "x") for n in range(4)] == [(1.0,) * n for n in range(4)]
    for kind, value, words in ((dict[str, float], {"a": float("inf")}, "losses.a is inf"), (list[int], ["x"], "losses is 'x'")):
        with pytest.raises(UserError, match=words):
            rebuild(kind, value, "losses")


def test_a_damaged_config_is_refused(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[:100])
    with pytest.raises(UserError, match="config.json is damaged"):
        read_checkpoint(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds list, expected a JSON object"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("latent_in.bias"), r"1 missing \(first: latent_in.bias\)"),
        (lambda t: t.update(extra=torch.zeros(2)), r"1 unexpected \(first: extra\)"),
        (
            lambda t: t.update({"latent_in.bias": torch.zeros(3)}),
            r"1 of another shape or type \(first: latent_in.bias\)",
        ),
        (
            lambda t: t.update({"latent_in.bias": torch.zeros(32, dtype=torch.float16)}),
            "1 of another shape or type",
        ),
    ],
)
def test_wrong_tensors_are_refused(folder: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(UserError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match="model.safetensors is damaged"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "tokenizer.json", "codec/config.json", "codec/model.safetensors", "card.json"],
)
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=Path(name).name):
        read_checkpoint(folder)


def test_a_damaged_codec_is_no_reason_to_train_one_again(folder: Path) -> None:
    path = folder / "codec" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"codec/model.safetensors is damaged \(.*\): use another checkpoint"):
        read_checkpoint(folder)


def test_the_newest_checkpoint_of_a_run_is_read(folder: Path) -> None:
    run = folder.parent / "run"
    for step in ("step_000090", "step_001000", "step_000900.copy"):
        shutil.copytree(folder, run / "checkpoints" / step)
    edit(run / "checkpoints" / "step_001000" / "card.json", lambda record: record.update(note="newest"))
    assert [path.name for path in checkpoints(run)] == ["step_000090", "step_001000"]
    assert read_checkpoint(run).card["note"] == "newest"


def test_a_model_that_does_not_fit_its_codec_is_not_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = WorldModel(replace(toys.model_config(), channels=12))
    with pytest.raises(UserError, match="the model's latent channels is 12, the codec's 8"):
        save_pretrained(tmp_path / "x", model, toys.tokenizer(), toys.codec(), CARD)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        {"mixture": []},
        {"mixture": {"held_out": "x"}},
        {"sources": {"kind": "goal"}},
        {"sources": [1]},
        {"trained_on": [[]]},
        {"train": {"packing": 3}},
    ],
)
def test_a_card_of_another_form_is_refused(folder: Path, damage: dict[str, Any]) -> None:
    edit(folder / "card.json", lambda record: record.update(damage))
    with pytest.raises(UserError, match=f"card.json is damaged, its {next(iter(damage))} is"):
        read_checkpoint(folder)


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["latent_in.bias"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"not finite, in 1 tensors \(first: latent_in.bias\)"):
        read_checkpoint(folder)
