"""Folders as the verbs leave them, written by hand: their JSON without weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TASK = "worldmodel/TwoRoom-v0"
PROBLEMS = [{"episode": i // 2, "start_step": i, "variation": {}} for i in range(8)]


def write(path: Path, record: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def write_metrics(folder: Path, texts: Sequence[float]) -> None:
    rows = [{"step": 10 * (i + 1), "loss/text": value, "tokens_per_second": 9.0} for i, value in enumerate(texts)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def pretrain(folder: Path, texts: Sequence[float] = (3.0, 2.0), steps: int = 20, lr: float = 0.1) -> Path:
    """A run of pretrain with a row of metrics every 10 steps; with a checkpoint if those are all of its steps."""
    card = {"mixture": {"held_out": 0.1}, "tasks": {TASK: ["dx", "dy"]}, "trained_on": ["a"]}
    record = {"schema_version": 3, "kind": "run", "train": {"steps": steps, "lr": lr}, "model": {"width": 4}, "data": {"seed": 0}}
    write(folder / "config.json", {**record, "card": card})
    write_metrics(folder, texts)
    if 10 * len(texts) == steps:
        (folder / "checkpoints" / f"step_{steps:06d}").mkdir(parents=True)
    return folder


def planning(touched: dict[str, Sequence[int]], digest: str = "") -> dict[str, Any]:
    """What an evaluation writes down, of these outcomes of each problem; of goals touched every other problem holds its own."""
    protocol = {"env_id": TASK, "problems": len(PROBLEMS), "seed": 0, "budget": 6} | ({"digest": digest} if digest else {})
    scores = [
        {
            "name": name,
            "success_rate": sum(met) / len(met),
            "held_rate": sum(met[::2]) / len(met),
            "interval_95": [0.1, 0.9],
            "held_interval_95": [0.0, 0.8],
            "streams": [{"success": list(map(bool, met)), "held": [bool(each and not i % 2) for i, each in enumerate(met)]}],
        }
        for name, met in touched.items()
    ]
    return {"protocol": protocol, "config": {"planner_kind": "CEMConfig"}, "controllers": scores}


def evaluation(folder: Path, touched: dict[str, Sequence[int]], digest: str = "") -> Path:
    write(folder / "report.json", planning(touched, digest))
    return folder


def quickstart(folder: Path, touched: dict[str, Sequence[int]] | None = None, seed: int = 0) -> Path:
    """A quickstart whose training has ended; finished if there are outcomes."""
    train = {"steps": 20, "lr": 0.1}
    write(
        folder / "config.json",
        {"schema_version": 3, "kind": "run", "out": None, "task": TASK, "seed": seed, "preset": {"train": train}},
    )
    write(folder / "manifest.json", {"kind": "worldmodel.manifest", "env_id": TASK, "problems": PROBLEMS})
    pretrain(folder / "pretrain")
    if touched is not None:
        report = {"planning": planning(touched), "ladder": {"rows": LADDER}, "codec": CODEC, "text": {"model": 2.5}}
        language = [{"name": "caption, whole", "rate": 0.5, "interval": [0.4, 0.6]}]
        write(folder / "report.json", {**report, "dream": {"shuffled_over_true": 1.5}, "language": language})
    return folder


LADDER = [
    {"task": "TwoRoom", "seed": 0, "rung": rung, "name": name, "value": value, "control": None}
    for rung, name, value in (
        ("ranking", "rank correlation", 0.5),
        ("ranking", "rank correlation, half of the 95 % interval", 0.2),
        ("result", "touched, cem", 0.25),
    )
]
CODEC = {"chosen": "pixels", "objectives": {"pixels": {"probe": {"r2": 0.75}}}, "reconstruction": {"psnr": 40.0, "perceptual": None}}


def codec(folder: Path, finished: bool = True, kind: str = "pixels") -> Path:
    write(folder / "run.json", {"config": {"kind": kind, "seed": 0}, "data": "digest"})
    if finished:
        write(folder / "config.json", {"schema_version": 2, "kind": kind})
        write(folder / "report.json", CODEC)
    return folder
