"""What `isoflop` and `ablate` share: many short runs on the same data, opened, tokenized and encoded once."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.batch import PackedBatch
from worldmodel.checkpoint import Pretrained
from worldmodel.codec.codec import Codec
from worldmodel.datasets.atomic import write_atomic
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.datasets.mixture.training_data import TrainingData
from worldmodel.errors import UserError
from worldmodel.flow import FlowConfig, sample_time
from worldmodel.known_tasks import card_of
from worldmodel.model import LossCounts, ModelConfig, NoiseSample, WorldModel
from worldmodel.packing import Packer
from worldmodel.precision import autocast, choose_device, choose_dtype
from worldmodel.presets import Preset, fit, fit_packing
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokens import PackingConfig, tokenise
from worldmodel.training.frame_latents import latent_cache
from worldmodel.training.job import Batches, Hooks
from worldmodel.training.latent_cache import LatentCache, encode_frames
from worldmodel.training.optimizer import build_optimizers
from worldmodel.training.train import TrainResult, train
from worldmodel.unseen import trained_on, warn_of_seen

HELD_OUT_KINDS = {"language": ("text",), "vision": ("transition", "action video", "video")}
"""Sources that each held-out loss is measured on."""


class ExperimentRunner:
    """Runs of different models on the same mixture, codec and tokenizer.

    Args:
        data: opened files.
        codec: of all runs.
        vocab_size: largest vocabulary, where no tokenizer is given.
        tokenizer: of all runs; None: trained on the data.

    Raises:
        UserError: frames and codec differ in size, or there is no text.
    """

    def __init__(self, data: TrainingData, codec: Codec, vocab_size: int, tokenizer: Tokenizer | None = None) -> None:
        for store in data.stores:
            if store.image_size != codec.image_size:
                raise UserError(
                    f"{store.path} has frames of {store.image_size} pixels, but the codec encodes {codec.image_size}: "
                    "give data of that size, or train a codec on these"
                )
        if tokenizer is None:
            texts = data.tokenizer_texts()
            if not texts:
                raise UserError("there is no text to train a tokenizer on: give the mixture a corpus or a task's episodes")
            tokenizer = Tokenizer.train(texts, vocab_size)
        warn_of_seen(codec, data.stores, data.held_out_episodes)
        self.data, self.codec, self.tokenizer = data, codec, tokenizer
        self.action_dim = max([1, *(data.config.action_block * store.action_size for store in data.stores)])
        self._packers: dict[Any, Packer] = {}
        self._latents: dict[str, LatentCache] = {}
        self._held_out: dict[Any, dict[str, list[PackedBatch]]] = {}

    def model_config(self, preset: Preset) -> ModelConfig:
        """Fit the preset's model to codec, tokenizer and actions."""
        return fit(preset.model, self.codec, self.tokenizer, self.action_dim)

    def packer(self, preset: Preset) -> Packer:
        """Pack batches of the training mixture; with the same seed they are equal for all models that take frames in the same way."""
        model = self.model_config(preset)
        key = (fit_packing(preset.train.packing, model), model.grid, preset.train.seed)
        if key not in self._packers:
            self._packers[key] = self._packer(self.data.sources(), *key)
        return self._packers[key]

    def _packer(self, sources: Sequence[tuple[Any, float]], packing: PackingConfig, grid: tuple[int, int], seed: int) -> Packer:
        rng = np.random.default_rng(seed)
        mixture = Mixture(sources, seed, lambda d: len(tokenise(d, self.tokenizer, grid, packing, rng)))
        return Packer(mixture, self.tokenizer, grid, self.action_dim, packing)

    def run(self, preset: Preset, folder: Path, stop: threading.Event | None = None) -> TrainResult:
        """Train the preset's model, or continue from its folder; all latents come from the disk, encoded once for all runs."""
        config = replace(preset.train, packing=fit_packing(preset.train.packing, self.model_config(preset)))
        if config.cache_latents != "none":
            config = replace(config, cache_latents="disk")
            if config.cache_dtype not in self._latents:
                self._latents[config.cache_dtype] = latent_cache(self.data, self.codec, config)
        latents = self._latents[config.cache_dtype] if config.cache_latents == "disk" else None
        torch.manual_seed(config.seed)
        model = WorldModel(self.model_config(preset))
        card = {
            "mixture": asdict(self.data.config),
            "data": [store.path.name for store in self.data.stores],
            "trained_on": trained_on(self.data.stores, self.data.train_episodes),
            **card_of(self.data.stores, self.data.config.action_block, self.data.units),
        }
        parts = Pretrained(model, self.tokenizer, self.codec, card)
        return train(parts, Batches(self.packer(preset), latents), config, folder, Hooks(stop=stop or threading.Event()))

    def held_out(self, preset: Preset, count: int, seed: int = 0) -> dict[str, list[PackedBatch]]:
        """Pack batches of held-out text and of held-out frames in time, by modality, as the preset's model takes them.

        Raises:
            UserError: the mixture has no such source with something held out.
        """
        model = self.model_config(preset)
        packing = fit_packing(preset.train.packing, model)
        key = (packing, model.grid, count, seed)
        if key not in self._held_out:
            batches = {}
            for modality, kinds in HELD_OUT_KINDS.items():
                parts = [(part.source, part.weight) for part in self.data.held_out_parts if part.kind in kinds]
                if not parts:
                    raise UserError(f"nothing is held out to measure the loss of {modality}: give the mixture {' or '.join(kinds)}")
                packer = self._packer(parts, packing, model.grid, seed)
                batches[modality] = [packer.batch(step) for step in range(count)]
            self._held_out[key] = batches
        return self._held_out[key]

    @torch.no_grad()
    def losses(
        self, model: WorldModel, batches: dict[str, list[PackedBatch]], flow: FlowConfig | None = None, seed: int = 0
    ) -> dict[str, float]:
        """Compute held-out losses: of language in nats per predicted token, of vision as mean squared velocity error.

        Args:
            model: in evaluation mode.
            batches: by modality, from `held_out`.
            flow: draws the flow times, so that models with other schedules are measured at the same noise levels; None: the model's.
            seed: of flow times and noise; the same draws for every model on the same latents.
        """
        flow = flow or model.config.flow
        alpha = flow.shift_for(model.config.latent_tokens, model.config.channels)
        device = model.device
        codec = self.codec.to(device).eval()
        losses = {}
        for modality, part in (("language", "text"), ("vision", "flow")):
            counts = sum((LossCounts.of(batch) for batch in batches[modality]), LossCounts(0, 0, 0))
            generator = torch.Generator().manual_seed(seed)
            losses[modality] = 0.0
            for batch in batches[modality]:
                here = batch.to(device)
                latents = encode_frames(codec, batch.pictures, device)
                t = sample_time(len(batch.frames), alpha, flow.logit_normal, generator, flow.noise_share).to(device)
                noise = torch.randn(len(batch.frames), *latents.shape[1:], generator=generator).to(device)
                noise_sample = NoiseSample(torch.where(here.clean, torch.ones_like(t), t), noise)
                losses[modality] += model.loss(here, latents, noise_sample, counts)[1][part].item()
        return losses

    def step_seconds(self, preset: Preset, batch: PackedBatch) -> float:
        """Measure the seconds of a training step, after one to warm up: forward and backward pass and optimizer, not compiled."""
        device = choose_device(preset.train.device)
        model = WorldModel(self.model_config(preset)).to(device)
        latents = encode_frames(self.codec.to(device).eval(), batch.pictures, device)
        here = batch.to(device)
        config = preset.train
        rates = config.lr, config.muon_lr, config.weight_decay, config.betas
        optimizers = build_optimizers(model, config.optimizer, *rates, dtype=choose_dtype(config.dtype, device))
        seconds = 0.0
        for _ in range(2):
            began = time.perf_counter()
            with autocast(device, choose_dtype(preset.train.dtype, device)):
                loss, _parts = model.loss(here, latents, model.sample_noise(here.clean, torch.Generator().manual_seed(0)))
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            loss.item()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
        return seconds


def write_record(path: Path, record: Any) -> None:
    """Write JSON, whole or not at all."""
    write_atomic(path, (json.dumps(record, indent=2) + "\n").encode())
