"""The source of pictures with captions that are not from a task."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from worldmodel.datasets.mixture.documents import Document, caption_document, image_document
from worldmodel.datasets.mixture.source import Direction, Entry, OpenedSource, Opening, RecipeSource, opened
from worldmodel.datasets.packages import PACKAGES, package_folder
from worldmodel.datasets.pictures.pairs import Pairs, open_pairs
from worldmodel.datasets.pictures.svg import need_resvg


@dataclass(frozen=True)
class ImagePairSource(RecipeSource):
    """Documents from pictures with captions, in one direction or in both equally often."""

    kind, default_name = "pairs", "image pair"
    options: ClassVar[dict[str, str]] = {"pairs": "pairs", "direction": "", "fit": ""}

    pairs: Pairs
    direction: Direction = "both"
    name: str = "image pair"

    @classmethod
    def check(cls, entry: Entry) -> None:
        for name in filter(PACKAGES.__contains__, (each.partition(":")[0] for each in entry.pairs)):
            package_folder(name)
            need_resvg()  # all packages of pictures hold SVG

    @classmethod
    def open(cls, entry: Entry, opening: Opening) -> OpenedSource:
        pairs = [open_pairs(source, opening.image_size, entry.fit) for source in entry.pairs]
        split = [each.split(opening.held_out, opening.seed) for each in pairs]
        sources = [cls(train, entry.direction, entry.name) for train, _ in split]
        held_out = [cls(rest, entry.direction, entry.name) for _, rest in split if len(rest)]
        return opened(entry, sources, held_out, [each.licence for each in pairs], pictures=split)

    def __len__(self) -> int:
        return len(self.pairs)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Text] or [Text, Frame] of a pair."""
        to_image = bool(rng.integers(2))
        if self.direction != "both":
            to_image = self.direction == "to image"
        image, caption = self.pairs.pair(item)
        return image_document(caption, image) if to_image else caption_document(image, caption)
