"""Checkpoints: a trained model, its tokenizer and its codec in one folder, and its strict reading.

    config.json          schema version and every field of the model's config
    model.safetensors    the averaged weights, float32
    tokenizer.json       the tokenizer
    codec/               the codec's own config.json and model.safetensors
    card.json            what it was trained on

A folder is there whole or not at all: it is written under another name and renamed. Nothing here is a pickle.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worldmodel import __version__
from worldmodel.codec.codec import Codec
from worldmodel.codec.kinds import FAR_LARGER, load_codec
from worldmodel.datasets.atomic import atomic_dir
from worldmodel.datasets.records import shortened
from worldmodel.errors import UserError, first_line
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.serialization import count_numbers, read_json, read_tensors, rebuild, write_json, write_tensors
from worldmodel.tokenizer import Tokenizer

SCHEMA_VERSION = 1
KIND = "worldmodel"
OTHER = "use another checkpoint"


@dataclass
class Pretrained:
    """What a checkpoint holds."""

    model: WorldModel
    tokenizer: Tokenizer
    codec: Codec
    card: dict[str, Any]


def save_pretrained(folder: Path | str, model: WorldModel, tokenizer: Tokenizer, codec: Codec, card: dict[str, Any]) -> None:
    """Write a checkpoint folder, atomically; an older checkpoint in its place is replaced.

    Raises:
        UserError: the folder exists and is no checkpoint; or the three do not fit together.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not is_checkpoint(folder):
        raise UserError(f"{folder} exists and holds something that is no checkpoint: name another folder")
    with atomic_dir(folder) as beside:
        write_pretrained(beside, model, tokenizer, codec, card)


def write_pretrained(folder: Path, model: WorldModel, tokenizer: Tokenizer, codec: Codec, card: dict[str, Any]) -> None:
    """Write a checkpoint's files into an existing, empty folder."""
    check_fit(model.config, codec, tokenizer)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(tensors, folder / "model.safetensors")
    tokenizer.save(folder / "tokenizer.json")
    codec.save_pretrained(folder / "codec")
    write_json(folder / "card.json", card)
    record = {"schema_version": SCHEMA_VERSION, "kind": KIND, "package_version": __version__}
    write_json(folder / "config.json", record | {"model": dataclasses.asdict(model.config)})


def read_checkpoint(folder: Path | str, device: torch.device | str = "cpu") -> Pretrained:
    """Read a checkpoint folder, or the checkpoint that `newest_checkpoint` finds in it; model and codec come in evaluation mode.

    Raises:
        UserError: the folder is missing, is no checkpoint, has another schema version or an unknown config;
            tensors are missing, unexpected, of another shape or cut short; the parts do not fit together.
    """
    folder = newest_checkpoint(Path(folder))
    config = read_model_config(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    codec = load_codec(folder / "codec", device, OTHER)
    check_fit(config, codec, tokenizer)
    model = build(config, folder)
    read_tensors(model, folder / "model.safetensors", OTHER)
    return Pretrained(model.to(device).eval(), tokenizer, codec, read_card(folder))


def read_card(folder: Path) -> dict[str, Any]:
    """Read what a checkpoint was trained on, without its weights; the folder is as of `read_checkpoint`.

    Raises:
        UserError: the folder is missing or is no checkpoint, or its card is damaged.
    """
    folder = newest_checkpoint(folder)
    read_model_config(folder)
    card = read_json(folder / "card.json", OTHER)
    check_card(card, folder / "card.json")
    return card


def build(config: ModelConfig, folder: Path) -> WorldModel:
    """Build the model of a checkpoint's config; one far larger than the checkpoint's tensors is refused before it is built.

    Raises:
        UserError: its config and its tensors do not fit, or no such model can be built.
    """
    there = count_numbers(folder / "model.safetensors", OTHER)
    too_large = f"{folder / 'config.json'} describes a model far larger than the {there:,} numbers of its model.safetensors: {OTHER}"
    if config.trunk.depth > there:
        raise UserError(too_large)
    try:
        with torch.device("meta"):  # without memory
            asked = sum(tensor.numel() for tensor in WorldModel(config).state_dict().values())
        if asked > FAR_LARGER * there:
            raise UserError(too_large)
        return WorldModel(config)
    except UserError:
        raise
    except (RuntimeError, MemoryError, ArithmeticError, ValueError, TypeError) as error:
        reason = first_line(error)
        raise UserError(f"{folder / 'config.json'} describes no model that can be built ({reason}): {OTHER}") from None


def check_card(card: dict[str, Any], path: Path) -> None:
    """Refuse a card whose entries that verbs read have another form.

    Raises:
        UserError: naming the entry.
    """
    mixture, sources, train = card.get("mixture", {}), card.get("sources", []), card.get("train", {})
    seen = card.get("trained_on", [])
    forms = {
        "mixture": isinstance(mixture, dict)
        and all(type(mixture.get(name, 0)) in kinds for name, kinds in {"held_out": (int, float), "split_seed": (int,)}.items()),
        "sources": isinstance(sources, list) and all(isinstance(each, dict) and "kind" in each for each in sources),
        "trained_on": isinstance(seen, dict) or isinstance(seen, list) and all(isinstance(each, str) for each in seen),
        "train": isinstance(train, dict) and isinstance(train.get("packing", {}), dict),
    }
    wrong = [name for name, right in forms.items() if not right]
    if wrong:
        raise UserError(f"{path} is damaged, its {wrong[0]} is {shortened(card[wrong[0]])}: {OTHER}")


def newest_checkpoint(folder: Path) -> Path:
    """Find the checkpoint of a quickstart's folder, the newest one of a run's folder; any other folder itself."""
    if is_checkpoint(folder / "checkpoint"):
        return folder / "checkpoint"
    return next(reversed(checkpoints(folder)), folder)


def checkpoints(run_dir: Path) -> list[Path]:
    """List all whole checkpoint folders of a run, by step."""
    found = [(folder.name.removeprefix("step_"), folder) for folder in (run_dir / "checkpoints").glob("step_*")]
    return [folder for _, folder in sorted((int(step), folder) for step, folder in found if step.isdigit())]


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder looks like one that `save_pretrained` wrote, of any schema version."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("kind") == KIND


def check_fit(config: ModelConfig, codec: Codec, tokenizer: Tokenizer) -> None:
    """Refuse a model whose inputs are not what its codec and tokenizer put out.

    Raises:
        UserError: naming the first size that differs.
    """
    sizes = [
        ("tokens per frame", config.latent_tokens, codec.num_tokens, "codec"),
        ("grid of tokens", tuple(config.latent_grid), tuple(codec.grid), "codec"),
        ("latent channels", config.channels, codec.channels, "codec"),
        ("vocabulary size", config.vocab_size, tokenizer.vocab_size, "tokenizer"),
    ]
    for name, ours, theirs, what in sizes:
        if ours != theirs:
            raise UserError(
                f"model and {what} do not fit: the model's {name} is {ours}, the {what}'s {theirs}; "
                f"use the {what} that the model was built for"
            )


def read_model_config(folder: Path) -> ModelConfig:
    """Read the model's config from a checkpoint folder.

    Raises:
        UserError: no such folder, no checkpoint, another schema version, or fields that do not match.
    """
    if not folder.is_dir():
        raise UserError(f"there is no checkpoint folder {folder}; train one with `worldmodel pretrain`")
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is no checkpoint, it has no config.json; name one that `worldmodel pretrain` wrote")
    record = read_json(path, OTHER)
    if record.get("kind") != KIND:
        raise UserError(f"{path} describes {record.get('kind')!r}, not a {KIND} checkpoint; name another folder")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {record.get('schema_version')!r}, this version of worldmodel reads "
            f"{SCHEMA_VERSION}; use the one that wrote it ({record.get('package_version')}) or train again"
        )
    config = rebuild(ModelConfig, record.get("model"), f"{path}: model")
    assert isinstance(config, ModelConfig)
    return config
