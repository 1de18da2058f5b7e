"""Vision towers of `transformers`: DINOv2 with and without registers, SigLIP and SigLIP 2 of fixed resolution.

A tower is built from the architecture's own config, cut to the blocks that run, without its final layer norm, pooling head, class
token and registers. Weights are read from safetensors, from a folder or the hub; no code of a model's repository is run.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from worldmodel.errors import UserError, first_line
from worldmodel.serialization import read_json


@dataclass(frozen=True)
class Family:
    """What `transformers` calls the parts of one family of vision transformers."""

    model: str
    """Class of the model."""
    norm: str
    """Name of its final layer norm."""
    mean: tuple[float, ...]
    """Of the pixels it was trained on, where its folder does not say."""
    std: tuple[float, ...]
    """Their deviation."""


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGLIP = "siglip_vision_model"
FAMILIES = {
    "dinov2": Family("Dinov2Model", "layernorm", *IMAGENET),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", "layernorm", *IMAGENET),
    SIGLIP: Family("SiglipVisionModel", "post_layernorm", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""By the model type of `transformers`."""

NOT_ARCHITECTURE = frozenset(
    "_name_or_path architectures dtype id2label label2id model_type out_features out_indices stage_names torch_dtype".split()
)
"""Entries of a config that only a classifier, a feature pyramid or the folder's history would need."""

AGAIN = "download the folder again, with its model.safetensors"
HUB_FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")


class Tower(nn.Module):
    """Normalized pixels to tokens.

    Args:
        model: of `transformers`.
        kind: its model type.
    """

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model = model
        setattr(model, FAMILIES[kind].norm, nn.Identity())  # its scale and shift are not wanted (RAE)
        self.options = {"interpolate_pos_encoding": True} if kind == SIGLIP else {}  # DINOv2 always does
        self.dropped = 0 if kind == SIGLIP else 1 + getattr(model.config, "num_register_tokens", 0)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (b, 3, h, w) to (b, n, c), row by row, before any final norm."""
        return self.model(pixels, **self.options).last_hidden_state[:, self.dropped :]


@dataclass(frozen=True)
class TowerFiles:
    """What a model's folder says about its vision tower."""

    folder: Path
    kind: str
    """Model type of the tower."""
    architecture: dict[str, Any]
    """Its whole config."""
    mean: tuple[float, ...]
    """Of the pixels it was trained on."""
    std: tuple[float, ...]
    """Their deviation."""

    @property
    def input_size(self) -> int:
        """What SigLIP's positions were trained for; 224 pixels for DINOv2, rounded to its patch (RAE)."""
        patch = int(self.architecture["patch_size"])
        size = int(self.architecture["image_size"]) if self.kind == SIGLIP else 224
        return max(patch, size // patch * patch)


def build_tower(name: str, kind: str, architecture: dict[str, Any], layer: int) -> Tower:
    """Build a tower of `layer` blocks with fresh weights.

    Raises:
        UserError: `transformers` is not installed.
    """
    transformers = _transformers(name)
    return Tower(getattr(transformers, FAMILIES[kind].model)(_cut(transformers, kind, architecture, layer)), kind)


def find_tower(name: str) -> TowerFiles:
    """Look a model up: in a folder, or on the hub (whose files come into the hub's own cache).

    Raises:
        UserError: `transformers` is not installed, the hub cannot be reached, or there is no such model of a supported type.
    """
    transformers = _transformers(name)
    folder = _folder(name)
    if not (folder / "config.json").is_file():
        raise UserError(f"{name} holds no model of transformers, there is no config.json in it; name another folder")
    record = read_json(folder / "config.json", AGAIN)
    kind = record.get("model_type")
    if kind == "siglip":
        kind, record = SIGLIP, record.get("vision_config", {})
    if kind not in FAMILIES:
        hint = "; of SigLIP 2 take one of fixed resolution, such as google/siglip2-base-patch16-224" if kind == "siglip2" else ""
        raise UserError(f"{name} is a model of type {kind!r}, but an encoder must be of type {', '.join(FAMILIES)} or siglip{hint}")
    whole = transformers.AutoConfig.for_model(kind, **{key: value for key, value in record.items() if key != "model_type"}).to_dict()
    pixels = read_json(folder / "preprocessor_config.json", AGAIN) if (folder / "preprocessor_config.json").exists() else {}
    return TowerFiles(
        folder,
        kind,
        {key: value for key, value in whole.items() if key not in NOT_ARCHITECTURE},
        tuple(pixels.get("image_mean", FAMILIES[kind].mean)),
        tuple(pixels.get("image_std", FAMILIES[kind].std)),
    )


def load_tower(name: str, files: TowerFiles, layer: int) -> Tower:
    """Load the tower with the folder's weights; the folder may hold more than that (a text tower), never less.

    Raises:
        UserError: the weights are missing, damaged or not safetensors, or do not fit the folder's config.
    """
    transformers = _transformers(name)
    with _quiet():
        try:
            model, info = getattr(transformers, FAMILIES[files.kind].model).from_pretrained(
                files.folder,
                config=_cut(transformers, files.kind, files.architecture, layer),
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(f"cannot read the weights in {files.folder} ({first_line(error)}); {AGAIN}") from None
    if info["missing_keys"]:
        raise UserError(f"{files.folder} lacks {len(info['missing_keys'])} weights (first: {min(info['missing_keys'])}); {AGAIN}")
    return Tower(model, files.kind)


def _cut(transformers: Any, kind: str, architecture: dict[str, Any], layer: int) -> Any:
    """Return the config of `transformers` for a tower of so many blocks."""
    cut = architecture | {"num_hidden_layers": layer} | ({"vision_use_head": False} if kind == SIGLIP else {})
    return transformers.AutoConfig.for_model(kind, **cut)


def _transformers(name: str) -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(f"the encoder {name} needs transformers ({error}); run `pip install 'worldmodel[encoders]'`") from None


def _folder(name: str) -> Path:
    """Return the folder that a name means: itself, or the hub's files in the hub's cache, fetched if need be."""
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise UserError(f"there is no folder {name}; name one, a model on the hub (OWNER/MODEL), or efficientnet-lite0")
    hub = importlib.import_module("huggingface_hub")
    unreachable = None
    try:
        hub.HfApi().model_info(name, timeout=5)
    except Exception as error:  # the client's and its network library's, which changes; files of an earlier time may still be there
        unreachable = error
    try:
        return Path(hub.snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=unreachable is not None))
    except Exception as error:
        raise UserError(
            f"cannot get {name} from the hub ({first_line(unreachable or error)}); run `hf download {name} --local-dir FOLDER` on a "
            f"machine with internet and name that folder instead"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's report of what it left unread in a file, such as a text tower."""
    logging = importlib.import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
