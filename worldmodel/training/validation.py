"""Held-out losses while a model trains: for each source on fixed batches of what is never trained on, with fixed noise.

Measured is the averaged model, whose checkpoints are kept. The batches of a source hold each of its held-out items at most once, so a
source that has few of them is measured on fewer batches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from worldmodel.batch import PackedBatch, collate
from worldmodel.codec.codec import Codec
from worldmodel.datasets.mixture.source import Source
from worldmodel.datasets.shuffle import shuffled
from worldmodel.losses import HIGH_NOISE, LossCounts, NoiseSample
from worldmodel.model import WorldModel
from worldmodel.precision import autocast, copied
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokens import PackingConfig, Tokens, tokenise
from worldmodel.training.distributed import Processes, single
from worldmodel.training.latent_cache import encode_frames
from worldmodel.training.step import move

ROWS = 16
"""Rows of a batch at most: a model is measured while the training's memory is in use."""


@dataclass(frozen=True)
class Fixed:
    """A batch that is measured again and again."""

    batch: PackedBatch
    text_bytes: int
    """UTF-8 bytes of the tokens that are predicted in it."""


class Validation:
    """The held-out batches of each source.

    Args:
        sources: made of held-out episodes, texts and pictures.
        tokenizer: for the texts.
        grid: rows and columns of a frame's latent tokens.
        action_dim: numbers in an action vector.
        packing: length of a row and what is drawn per document, as in training.
        batches: of each source, at most.
        seed: of the choice of documents, of flow times and of noise.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        grid: tuple[int, int],
        action_dim: int,
        packing: PackingConfig,
        batches: int = 2,
        seed: int = 0,
    ) -> None:
        self.sources, self.tokenizer, self.grid, self.action_dim = list(sources), tokenizer, grid, action_dim
        self.packing, self.batches, self.seed = packing, batches, seed
        self._latents: dict[int, Tensor] = {}  # of each batch, by its identity; on the CPU

    @cached_property
    def fixed(self) -> dict[str, list[Fixed]]:
        """The batches by source, packed when they are needed first."""
        return {source.name: self._fixed(source) for source in self.sources}

    def _fixed(self, source: Source) -> list[Fixed]:
        """Pack documents in a seeded order, a row filled until the next one does not fit.

        Rows are 1, 2, 4, 8 or as many as there may be, the last ones empty: of few shapes, for each of which a GPU compiles attention.
        """
        rows, length = min(ROWS, self.packing.rows), self.packing.length
        packed: list[list[Tokens]] = [[]]
        for index in range(len(source)):
            rng = np.random.default_rng([self.seed, index, 1])
            document = source.document(shuffled(index, len(source), self.seed), rng)
            tokens = tokenise(document, self.tokenizer, self.grid, self.packing, rng)
            if len(tokens) > length:
                if not tokens.is_text:
                    continue
                tokens = tokens.part(0, length)
            if sum(map(len, packed[-1])) + len(tokens) > length:
                if len(packed) == rows * self.batches:
                    break
                packed.append([])
            packed[-1].append(tokens)
        found = []
        for start in range(0, len(packed), rows):
            chosen = packed[start : start + rows]
            chosen += [[]] * (min(rows, 1 << (len(chosen) - 1).bit_length()) - len(chosen))
            batch = collate(chosen, length, self.tokenizer.pad_id, self.action_dim, {source.name: 0})
            predicted = batch.text_target.flatten()[batch.predicted_positions].tolist()
            found.append(Fixed(batch, len(self.tokenizer.decode(predicted).encode())))
        return found

    @torch.no_grad()
    def measure(
        self, model: WorldModel, codec: Codec, dtype: torch.dtype = torch.float32, processes: Processes | None = None
    ) -> dict[str, float]:
        """Measure losses by name, the same for the same weights.

        For each source `validation/<source>/`: `text` (nats per token), `bits_per_byte` (of sources that are text alone), `flow` (at
        flow times as in training), `flow_high_noise` (at flow times below 0.1, where a rollout in few steps starts) and `action`
        (squared error of said actions). `validation/text`, `validation/flow`, `validation/flow_high_noise` and `validation/action`
        are means over the sources, each counting alike.

        Args:
            model: in evaluation mode; in parts where there are several processes.
            codec: of its latents, on the same device.
            dtype: of the forward pass.
            processes: that share the work; all of them call this, and get the same.
        """
        sums = self._sums(model, codec, dtype, processes or single(model.device))
        values: dict[str, float] = {}
        for name, batches in self.fixed.items():
            counts = {"text": sum(len(each.batch.predicted_positions) for each in batches)}
            counts["flow"] = counts["flow_high_noise"] = sum(len(each.batch.noised_frames) for each in batches)
            counts["action"] = sum(each.batch.known_numbers for each in batches)
            for part, count in counts.items():
                if count:
                    values[f"validation/{name}/{part}"] = sums[name, part] / count
            letters = sum(each.text_bytes for each in batches)
            if letters and not any(len(each.batch.frames) for each in batches):
                values[f"validation/{name}/bits_per_byte"] = sums[name, "text"] / math.log(2) / letters
        for part in ("text", "flow", "flow_high_noise", "action"):
            found = [value for name, value in values.items() if name.endswith(f"/{part}")]
            if found:
                values[f"validation/{part}"] = sum(found) / len(found)
        return values

    def _sums(self, model: WorldModel, codec: Codec, dtype: torch.dtype, processes: Processes) -> dict[tuple[str, str], float]:
        """Sum the losses over the batches of each source, by source and part.

        The forward passes are dealt out. Of a sharded model each takes all processes, so one that has none left repeats the last.
        """
        passes = [
            (name, number, each, high)
            for name, batches in self.fixed.items()
            for number, each in enumerate(batches)
            for high in (False, True)
            if len(each.batch.noised_frames) or (not high and (len(each.batch.predicted_positions) or each.batch.known_numbers))
        ]
        totals = torch.zeros(len(passes), 3, dtype=torch.float64)  # of text, flow and actions
        for start in range(0, len(passes), processes.world_size):
            own = start + processes.rank
            _, number, each, high = passes[min(own, len(passes) - 1)]
            found = self._losses(model, codec, each, number, high, dtype)
            if own < len(passes):
                totals[own] = torch.tensor(found, dtype=torch.float64)
        sums: dict[tuple[str, str], float] = {}
        for (name, _, _, high), (text, flow, action) in zip(passes, processes.sum(totals).tolist(), strict=True):
            for part, total in (("flow_high_noise", flow),) if high else (("text", text), ("flow", flow), ("action", action)):
                sums[name, part] = sums.get((name, part), 0.0) + total
        return sums

    def _losses(
        self, model: WorldModel, codec: Codec, each: Fixed, number: int, high: bool, dtype: torch.dtype
    ) -> tuple[float, float, float]:
        """Sum the text, flow and action losses of one batch; `high`: at flow times below 0.1."""
        device = model.device
        if id(each) not in self._latents:
            self._latents[id(each)] = encode_frames(codec, each.batch.pictures, device).cpu()
        latents, batch = copied(self._latents[id(each)], device), move(each.batch, device)
        noise_sample = model.sample_noise(batch.clean, torch.Generator().manual_seed(self.seed + number))
        if high:
            near = torch.linspace(0, HIGH_NOISE, len(noise_sample.t) + 1, device=device)[:-1]
            noise_sample = NoiseSample(torch.where(batch.clean, noise_sample.t, near), noise_sample.noise)
        with autocast(device, dtype):
            _, parts = model.loss(batch, latents, noise_sample)
        counts = LossCounts.of(batch)
        sizes = {"text": counts.text, "flow": counts.frames, "action": counts.actions}
        text, flow, action = (float(parts[part]) * count if count else 0.0 for part, count in sizes.items())
        return text, flow, action
