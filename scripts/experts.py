"""What the experts of a trained mixture specialize in: by modality, flow time and task; a table, a figure and JSON."""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from tqdm import tqdm

from worldmodel.batch import PackedBatch
from worldmodel.checkpoint import Pretrained, read_checkpoint
from worldmodel.datasets.mixture import Mixture
from worldmodel.datasets.outputs import MARK, check_output, json_bytes, write_output
from worldmodel.datasets.training_data import MixtureConfig, open_training_data
from worldmodel.errors import UserError
from worldmodel.home import runs_dir
from worldmodel.packing import Packer
from worldmodel.precision import choose_device
from worldmodel.scripts.console import print_columns, run_verb
from worldmodel.studies.selections import record
from worldmodel.studies.specialisation import LayerReport, SpecialisationConfig, analyse, to_json
from worldmodel.tokens import PackingConfig, tokenise
from worldmodel.training.latent_cache import encode_frames

NOTES = """
S: 1 serves text alone, -1 vision alone; fresh router: mean |S| of new weights on the same hidden states; shuffled: labels, or flow
times, at random; variation: standard deviation over mean of the vision experts' selection over flow time.
""".strip()
"""What a reader of the table must know."""
Config = TypeVar("Config", MixtureConfig, PackingConfig)


@dataclass(frozen=True)
class ExpertsConfig:
    """Measure which experts of a trained mixture serve text, which vision, how steadily over flow time; for seeing and drawing alike?

    `worldmodel experts --checkpoint run --data two_room.h5 --out experts` prints a table by layer and writes experts.png and
    experts.json. The checkpoint must have experts: `worldmodel pretrain ... preset:tiny --preset.model.trunk.feed-forward moe`.
    """

    checkpoint: Path
    """Checkpoint or run folder of a mixture of experts, from worldmodel pretrain."""
    data: tuple[Path, ...] = ()
    """Episode files, as in training; their held-out episodes are used, with the held-out texts and pictures of the run's mixture."""
    out: Path | None = None
    """Folder for experts.json and experts.png; by default `experts` in the runs folder of WORLDMODEL_HOME."""
    overwrite: bool = False
    """Replace files of these names which worldmodel did not make."""
    device: str = "auto"
    """auto: the first GPU, else the CPU."""
    specialisation: SpecialisationConfig = field(default_factory=SpecialisationConfig)
    """How much is measured, and where the classes of experts begin."""


def main(config: ExpertsConfig) -> None:
    """Measure, print the table, write figure and JSON."""
    device, out = choose_device(config.device), config.out or runs_dir() / "experts"
    for name in ("experts.json", "experts.png"):
        check_output(out / name, inputs=config.data, overwrite=config.overwrite)
    trained = read_checkpoint(config.checkpoint, device)
    kind = trained.model.config.trunk.feed_forward
    if kind != "moe":
        raise UserError(
            f"{config.checkpoint} has no experts, its feed_forward is {kind!r}: train a mixture of experts with worldmodel pretrain "
            "... preset:base, or with preset:tiny --preset.model.trunk.feed-forward moe"
        )
    settings, tokenizer = config.specialisation, trained.tokenizer
    batches = held_out_batches(trained, config.data, settings, device)
    shown = tqdm(batches, total=settings.batches, unit="batch", desc="experts", disable=None)
    own, fresh = record(trained.model, shown, (tokenizer.boi_id, tokenizer.eoi_id), settings.seed)
    reports, controls = analyse(own, settings), analyse(fresh, settings)
    tokens = {name: round(float(counts[:, 0].sum()) / trained.model.config.trunk.moe.top_k) for name, counts in own.counts.items()}
    print("tokens: " + ", ".join(f"{tokens[name]:,} {name}" for name in ("text", "vision", "action", "understanding", "generation")))
    print_columns(table(reports, controls))
    print(NOTES)
    result = {
        "config": asdict(settings),
        "checkpoint": Path(config.checkpoint).name,
        "tokens": tokens,
        "layers": to_json(reports),
        "fresh_router": to_json(controls),
    }
    write_output(out / "experts.png", draw(reports, controls, settings.threshold))
    write_output(out / "experts.json", json_bytes(result, indent=1))
    print(f"{out / 'experts.png'}: figure; all numbers are in {out / 'experts.json'}")


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


def table(reports: Sequence[LayerReport], controls: Sequence[LayerReport]) -> list[tuple[str, ...]]:
    """Format rows of cells, one per layer under their headings."""
    names = ("layer", "text", "multimodal", "vision", "unused", "mean |S|", "fresh router", "shuffled")
    rows: list[tuple[str, ...]] = [(*names, "variation over time", "shuffled", "understanding-generation r")]
    for layer, (report, control) in enumerate(zip(reports, controls, strict=True)):
        counts = (report.text, report.multimodal, report.vision, report.unused)
        indices = (report.mean_index, control.mean_index, report.shuffled_index)
        spread = (report.time_variation, report.shuffled_time_variation)
        interval = report.correlation_interval
        r = _cell(report.correlation) + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
        rows.append((str(layer), *map(str, counts), *map(_cell, indices), *map(_cell, spread), r))
    return rows


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def draw(reports: Sequence[LayerReport], controls: Sequence[LayerReport], threshold: float) -> bytes:
    """Draw a PNG of four panels: the index of every expert, their classes, variation over time and correlation, by layer."""
    figure = Figure(figsize=(12, 8), layout="constrained", dpi=110)
    axes = figure.subplots(2, 2)
    layers = np.arange(len(reports))
    index = np.array([report.index for report in reports], float)  # None becomes NaN
    picture = axes[0, 0].imshow(np.sort(index, axis=1), aspect="auto", cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=axes[0, 0], label="S: -1 vision, 1 text")
    axes[0, 0].set(title="Index S of the experts, sorted", xlabel="expert", ylabel="layer", yticks=layers)
    bottom = np.zeros(len(reports))
    for name, colour in (("text", "tab:blue"), ("multimodal", "0.7"), ("vision", "tab:red"), ("unused", "white")):
        counts = np.array([getattr(report, name) for report in reports])
        axes[0, 1].bar(layers, counts, bottom=bottom, color=colour, edgecolor="0.4", linewidth=0.4, label=name, zorder=2)
        bottom += counts
    axes[0, 1].set(ylim=(0, 1.12 * bottom.max()))  # the legend lies above the bars
    _finish(axes[0, 1], f"Experts of text (S >= {threshold:g}) and vision (S <= -{threshold:g})", "experts", len(reports), columns=4)
    _lines(axes[1, 0], reports, "trained", lambda report: report.time_variation, "o-")
    _lines(axes[1, 0], reports, "flow times shuffled", lambda report: report.shuffled_time_variation, "x:")
    axes[1, 0].set(ylim=(0, None))
    if not any(report.vision for report in reports):
        axes[1, 0].text(0.5, 0.5, "no layer has an expert of vision", ha="center", transform=axes[1, 0].transAxes)
    _finish(axes[1, 0], "Vision experts: variation of selection over flow time", "standard deviation / mean", len(reports))
    _lines(axes[1, 1], reports, "trained", lambda report: report.correlation, "o-")
    _lines(axes[1, 1], controls, "fresh router", lambda report: report.correlation, "x:")
    low, high = np.array([report.correlation_interval or (np.nan, np.nan) for report in reports]).T
    axes[1, 1].fill_between(layers, low, high, alpha=0.2)
    _finish(axes[1, 1], "Understanding and generation: correlation of selection", "Pearson's r, 95 % of resamples", len(reports))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": MARK})
    return buffer.getvalue()


def _lines(axes: Axes, reports: Sequence[LayerReport], label: str, value: Callable[[LayerReport], Any], style: str) -> None:
    axes.plot(np.arange(len(reports)), np.array([value(report) for report in reports], float), style, label=label)


def _finish(axes: Axes, title: str, unit: str, layers: int, columns: int = 1) -> None:
    axes.set(title=title, xlabel="layer", ylabel=unit, xlim=(-0.5, layers - 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=columns)


if __name__ == "__main__":
    sys.exit(run_verb("experts", lambda: main, sys.argv[1:]))
