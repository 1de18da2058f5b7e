"""What the experts of a trained mixture specialize in: by modality, flow time and task; a table, a figure and JSON."""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldmodel.checkpoint import read_checkpoint
from worldmodel.datasets.outputs import check_output, json_bytes, write_output
from worldmodel.errors import UserError
from worldmodel.home import runs_dir
from worldmodel.precision import choose_device
from worldmodel.scripts.console import print_columns, run_verb
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.studies.held_out_batches import held_out_batches
from worldmodel.studies.selections import record
from worldmodel.studies.specialisation import SpecialisationConfig, analyse, to_json
from worldmodel.studies.specialisation_report import NOTES, draw, table


@dataclass(frozen=True)
class ExpertsConfig(JsonFlag):
    """Measure which experts of a trained mixture serve text, which vision, how steadily over flow time; for seeing and drawing alike?

    `worldmodel experts --checkpoint run --data two_room.h5 --out experts` prints a table by layer and writes experts.png and
    experts.json. The checkpoint must have experts: `worldmodel pretrain ... --model.trunk.feed-forward moe`.
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


def main(config: ExpertsConfig) -> dict[str, Any]:
    """Measure, print the table, write figure and JSON."""
    device, out = choose_device(config.device), config.out or runs_dir() / "experts"
    for name in ("experts.json", "experts.png"):
        check_output(out / name, inputs=config.data, overwrite=config.overwrite)
    trained = read_checkpoint(config.checkpoint, device)
    kind = trained.model.config.trunk.feed_forward
    if kind != "moe":
        raise UserError(
            f"{config.checkpoint} has no experts, its feed_forward is {kind!r}: train a mixture of experts with worldmodel pretrain "
            "... --preset base, or --preset tiny --model.trunk.feed-forward moe"
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
    return result


if __name__ == "__main__":
    sys.exit(run_verb("experts", lambda: main, sys.argv[1:]))
