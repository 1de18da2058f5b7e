"""The standard mixture: everything this project trains on, from episode files and packages, split into training and held-out parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worldmodel.datasets.images import ImagePairs, ImagePairSource, load_openmoji
from worldmodel.datasets.sources import (
    ActionVideoSource,
    CaptionedImageSource,
    CaptionSource,
    QuestionSource,
    Source,
    VideoSource,
)
from worldmodel.datasets.store import EpisodeStore
from worldmodel.datasets.text import SOTU, TextSource, load_text, split_docs
from worldmodel.errors import UserError


@dataclass(frozen=True)
class MixtureConfig:
    """Shares of the token stream, and how documents are cut. Only the ratios of the shares count; 0 leaves a source out."""

    action_video: float = 0.56
    """Frames with the actions between them."""
    video: float = 0.04
    """Frames without actions."""
    caption: float = 0.08
    """A frame, then what is true of it."""
    captioned_image: float = 0.08
    """A caption, then a frame it is true of."""
    question: float = 0.08
    """A frame, a question, its answer."""
    text: float = 0.10
    """Text corpora."""
    pictures: float = 0.06
    """Pictures with captions that are not from a task (OpenMoji), in both directions."""
    clip_length: int = 3
    """Model steps per video document; it has one frame more."""
    action_block: int = 3
    """Environment actions per model step."""
    corpora: tuple[str, ...] = (SOTU,)
    """Text corpora: sotu, .txt or .jsonl files."""
    text_chunk: int = 240
    """Greatest number of characters in a text document."""
    held_out: float = 0.1
    """Share of episodes, texts and pictures that is never trained on."""
    split_seed: int = 0
    """Decides what is held out."""

    def __post_init__(self) -> None:
        for name in ("action_video", "video", "caption", "captioned_image", "question", "text", "pictures"):
            share = getattr(self, name)
            if not (math.isfinite(share) and share >= 0):
                raise UserError(f"mixture share {name} is {share}, must be a number of at least 0")
        for name, least in (("clip_length", 1), ("action_block", 1), ("text_chunk", 1), ("split_seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out is {self.held_out}, must lie between 0 and 1")


@dataclass(frozen=True)
class StandardData:
    """Opened files and packages with their splits."""

    stores: list[EpisodeStore]
    train_episodes: list[list[int]]
    """Per store."""
    held_out_episodes: list[list[int]]
    """Per store."""
    train_texts: list[str] = field(repr=False)
    held_out_texts: list[str] = field(repr=False)
    train_pictures: ImagePairs | None
    held_out_pictures: ImagePairs | None
    config: MixtureConfig

    def sources(self) -> list[tuple[Source, float]]:
        """Training sources with their shares; several stores share a source's part equally."""
        config, part = self.config, 1 / max(1, len(self.stores))
        weighted: list[tuple[Source, float]] = []
        for store, episodes in zip(self.stores, self.train_episodes, strict=True):
            tail = "" if len(self.stores) == 1 else f" {store.path.stem}"
            clip = (store, episodes, config.clip_length, config.action_block)
            weighted += [
                (ActionVideoSource(*clip, name=f"action video{tail}"), part * config.action_video),
                (VideoSource(*clip, name=f"video{tail}"), part * config.video),
                (CaptionSource(store, episodes, name=f"caption{tail}"), part * config.caption),
                (
                    CaptionedImageSource(store, episodes, name=f"captioned image{tail}"),
                    part * config.captioned_image,
                ),
                (QuestionSource(store, episodes, name=f"question{tail}"), part * config.question),
            ]
        if self.train_texts:
            weighted.append((TextSource(self.train_texts, config.text_chunk), config.text))
        if self.train_pictures is not None:
            weighted.append((ImagePairSource(self.train_pictures), config.pictures))
        return weighted

    def tokenizer_texts(self, per_store: int = 2000) -> list[str]:
        """Texts to train a tokenizer on: the corpora, the pictures' captions, and a sample of the tasks' language."""
        texts = list(self.train_texts)
        if self.train_pictures is not None:
            texts += self.train_pictures.captions
        for store, episodes in zip(self.stores, self.train_episodes, strict=True):
            for i in episodes[: max(1, per_store // 40)]:
                episode = store.episode(i)
                texts += episode.captions + episode.questions + episode.answers + episode.action_texts
        return texts


def open_standard(paths: Sequence[Path], config: MixtureConfig) -> StandardData:
    """Open the episode files into memory and the packages the mixture needs, and split them.

    Raises:
        UserError: no file is given, files differ in frame size, or a package is missing.
    """
    if not paths:
        raise UserError("no episode file was given; make one with worldmodel collect")
    stores = [EpisodeStore(Path(path), in_memory=True) for path in paths]
    sizes = {store.image_size for store in stores}
    if len(sizes) > 1:
        raise UserError(f"the episode files have frames of {sorted(sizes)} pixels; collect them at one size")
    splits = [store.split(config.split_seed, config.held_out) for store in stores]
    texts: tuple[list[str], list[str]] = ([], [])
    if config.text > 0 and config.corpora:
        docs = [doc for corpus in config.corpora for doc in load_text(corpus)]
        texts = split_docs(docs, config.held_out, config.split_seed)
    pictures = None
    if config.pictures > 0:
        pictures = load_openmoji(sizes.pop()).split(config.held_out, config.split_seed)
    return StandardData(
        stores,
        [list(train) for train, _ in splits],
        [list(held) for _, held in splits],
        texts[0],
        texts[1],
        pictures[0] if pictures else None,
        pictures[1] if pictures else None,
        config,
    )
