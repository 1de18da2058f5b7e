"""Batches of documents that a model was not trained on, from the mixture of its training."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from worldmodel.batch import PackedBatch
from worldmodel.checkpoint import Pretrained
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.datasets.mixture.training_data import MixtureConfig, open_training_data
from worldmodel.errors import UserError
from worldmodel.packing import Packer
from worldmodel.studies.specialisation import SpecialisationConfig
from worldmodel.tokens import PackingConfig, tokenise
from worldmodel.training.latent_cache import encode_frames

Config = TypeVar("Config", MixtureConfig, PackingConfig)


def held_out_batches(
    trained: Pretrained, data: Sequence[Path], config: SpecialisationConfig, device: torch.device
) -> Iterator[tuple[PackedBatch, Tensor]]:
    """Pack documents that the model was not trained on, from the mixture that it was trained on, with their latents."""
    card, codec, tokenizer = trained.card, trained.codec, trained.tokenizer
    asked = recorded(MixtureConfig, card.get("mixture", {}))
    packing = replace(recorded(PackingConfig, card.get("train", {}).get("packing", {}) | {"data_shards": 1}), rows=config.rows)
    opened = open_training_data(data, asked, codec.image_size)
    seen = set(card.get("trained_on", ()))
    for store, held_out in zip(opened.stores, opened.held_out_episodes, strict=True):
        known = sum(store.identities[i] in seen for i in held_out)
        if known:
            raise UserError(
                f"the model was trained on {known} of the {len(held_out)} episodes that would be held out of {store.path}: "
                "give the files of its training as they were"
            )
    sources = opened.held_out_sources()
    if not sources:
        raise UserError("the data hold out nothing to measure on: give larger files, or a checkpoint with a larger mixture held_out")
    rng, grid = np.random.default_rng(config.seed), trained.model.config.grid
    mixture = Mixture(sources, config.seed, lambda document: len(tokenise(document, tokenizer, grid, packing, rng)))
    packer = Packer(mixture, tokenizer, grid, trained.model.config.action_dim, packing)
    for step in range(config.batches):
        batch = packer.batch(step)
        yield batch.to(device), encode_frames(codec, batch.pictures, device)


def recorded(kind: type[Config], values: dict[str, Any]) -> Config:
    """Read settings from a checkpoint's card, lists as tuples; defaults for what the card does not say."""
    known = {item.name for item in fields(kind)}
    chosen: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items() if k in known}
    try:
        return kind(**chosen)
    except TypeError as error:
        raise UserError(f"the checkpoint's card.json is damaged, what it says of the {kind.__name__} cannot be ({error})") from None
