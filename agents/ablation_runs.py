"""The runs of an ablation: what is missing of them is trained and measured, one codec of each kind for all seeds."""

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldmodel.agents.ablation_metrics import AblationMetrics
from worldmodel.checkpoint import read_checkpoint
from worldmodel.codec.codec import Codec
from worldmodel.codec.kinds import CodecKind
from worldmodel.codec.training import CodecConfig, train_codec
from worldmodel.codec.training_frames import codec_data
from worldmodel.datasets.mixture.training_data import MixtureConfig, TrainingData
from worldmodel.errors import UserError
from worldmodel.evaluation import DreamConfig
from worldmodel.precision import choose_device
from worldmodel.presets import Preset, tiny, with_seed
from worldmodel.rollout import RolloutConfig
from worldmodel.serialization import read_json
from worldmodel.studies.ablation import COMPARISONS, MEASURES, NOTES, Runs, Variant, findings, runs_of
from worldmodel.studies.experiment_runner import ExperimentRunner, write_record
from worldmodel.studies.scaling import for_steps
from worldmodel.system_info import device_facts, machine
from worldmodel.training.resume import read_progress


@dataclass(frozen=True)
class AblationConfig:
    """How the variants are trained and measured."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Every variant is trained once with each."""
    steps: int | None = None
    """Training steps of a run; by default the preset's. Warm-up and averaging keep their share."""
    codec: CodecConfig = field(default_factory=CodecConfig)
    """Training of the codecs; the comparison sets the kind."""
    vocab_size: int = 2048
    """Largest vocabulary of the tokenizer."""
    dream: DreamConfig = field(default_factory=DreamConfig)
    """Held-out clips that are dreamed."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Flow steps per frame."""
    batches: int = 4
    """Held-out batches of the flow loss."""
    problems: int = 0
    """Held-out planning problems of each run (0: none), as in `worldmodel evaluate`; they take longer than all else."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Shares of the sources, or a recipe."""
    preset: Preset = field(default_factory=tiny)
    """Sizes of model and training; with the codec rae, x-prediction and its own feed-forward and shift it is the baseline."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UserError(f"seeds are {self.seeds}; give numbers of at least 0, each once")
        for name, least in (("batches", 1), ("problems", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps is {self.steps}, must be at least 1")

    @property
    def trained(self) -> Preset:
        """The preset with the steps asked for, and nothing but training in its runs."""
        return for_steps(self.preset, self.steps or self.preset.train.steps)


def check_widths(config: AblationConfig, asked: Sequence[Variant]) -> None:
    """Refuse codecs whose latents have more channels than the model is wide, before any codec is trained.

    Raises:
        UserError: naming the codec.
    """
    own = {"vae": config.codec.vae.channels, "pixels": 3 * config.codec.pixels.patch_size**2}
    if not config.codec.encoder_name:
        own["rae"] = config.codec.encoder.channels
    for kind in {variant.codec for variant in asked} & own.keys():
        try:
            replace(config.preset.model, channels=own[kind])
        except UserError as error:
            raise UserError(f"codec {kind}: {error}") from None


def record_of(config: AblationConfig, data: TrainingData) -> dict[str, Any]:
    """Collect what all runs of a folder have in common; comparisons and seeds may be added."""
    own = {each.name for each in fields(AblationConfig)} - {"seeds", "mixture"}
    common = {name: value for name, value in asdict(config).items() if name in own}
    common["report"] = False  # folders have it since the verb wrote all of its flags
    record = {"study": "ablate", **common, "mixture": asdict(config.mixture), "files": [store.path.name for store in data.stores]}
    return json.loads(json.dumps(record, default=str))


def run_all(
    config: AblationConfig,
    data: TrainingData,
    asked: Sequence[Variant],
    metrics: AblationMetrics,
    out: Path,
    stop: threading.Event,
    command: str = "",
) -> dict[tuple[str, int], dict[str, float]]:
    """Return the measures of all runs of the folder; runs that were asked for and are missing are made, unless training is stopped.

    `command` is recorded with the machine as what made the results.
    """
    path = out / "results.json"
    found = read_json(path) if path.exists() else {"runs": [], "controls": {}}
    runs = runs_of(found, path)
    metrics.controls.update(found["controls"])
    made_by = [*found.get("made_by", []), origin(config, command)]
    made_by = [each for i, each in enumerate(made_by) if each not in made_by[:i]]
    if runs:
        write_results(path, config, runs, metrics.controls, made_by)  # with the command of today
    runners: dict[str, ExperimentRunner] = {}
    steps, seeds = config.trained.train.steps, ", ".join(map(str, config.seeds))
    missing = [(variant, seed) for seed in config.seeds for variant in asked if (variant.name, seed) not in runs]
    print(f"{len(asked)} variants, seeds {seeds}, {steps} steps each: {len(missing)} of {len(asked) * len(config.seeds)} runs to do")
    with tqdm(total=len(asked) * len(config.seeds), unit="run", desc="ablate", disable=None) as bar:
        bar.update(bar.total - len(missing))
        for variant, seed in missing:
            if variant.codec not in runners:
                codec, report = make_codec(config, data, variant.codec, out)
                tokenizer = next(iter(runners.values())).tokenizer if runners else None
                runners[variant.codec] = ExperimentRunner(data, codec, config.vocab_size, tokenizer)
                metrics.controls[f"codec_psnr_{variant.codec}"] = float(report["reconstruction"]["psnr"])
            if stop.is_set():
                break
            preset = with_seed(variant.apply(config.trained), seed)
            result = runners[variant.codec].run(preset, out / "runs" / f"{variant.name}_seed{seed}", stop)
            if not result.finished:
                break
            trained = read_checkpoint(result.checkpoint, choose_device(preset.train.device))
            seconds = read_progress(result.checkpoint).seconds
            held_out = runners[variant.codec].held_out(preset, config.batches)
            values = metrics.measure(trained, runners[variant.codec], held_out, config.preset.model.flow, seed)
            values["codec_psnr"] = metrics.controls[f"codec_psnr_{variant.codec}"]
            runs[variant.name, seed] = values | {"seconds_per_step": seconds / preset.train.steps}
            write_results(path, config, runs, metrics.controls, made_by)
            bar.update()
    return runs


def make_codec(config: AblationConfig, data: TrainingData, kind: CodecKind, out: Path) -> tuple[Codec, dict[str, Any]]:
    """Train the codec of a kind, once for all seeds; a pretrained encoder is for the kind rae alone."""
    wanted = replace(config.codec, kind=kind, encoder_name=config.codec.encoder_name if kind == "rae" else "")
    return train_codec(wanted, codec_data(data), out / "codecs" / kind, choose_device(config.preset.train.device))


def origin(config: AblationConfig, command: str) -> dict[str, Any]:
    """Record the command and the machine."""
    facts = machine("numpy", "safetensors", "tokenizers") | device_facts(choose_device(config.preset.train.device))
    return {"command": command, "machine": facts}


def write_results(
    path: Path, config: AblationConfig, runs: Runs, controls: dict[str, float], made_by: Sequence[dict[str, Any]]
) -> None:
    """Write everything measured so far, with the findings and the commands that made it."""
    record = {
        "made_by": made_by,
        "preset": asdict(config.trained),
        "mixture": asdict(config.mixture),
        "controls": controls,
        "runs": [{"variant": name, "seed": seed, "measures": values} for (name, seed), values in runs.items()],
        "measures": {name: measure.title for name, measure in MEASURES.items()},
        "notes": NOTES,
        "findings": [
            outcome.to_json()
            for outcome in findings(COMPARISONS, config.preset.model.trunk.feed_forward, runs, config.trained.train.steps)
        ],
    }
    write_record(path, json.loads(json.dumps(record, default=str)))
