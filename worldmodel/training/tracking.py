"""What a run writes down while it trains: TensorBoard, and the same numbers as one JSON object a line."""

import json
import logging
from pathlib import Path
from types import TracebackType

import imageio.v3 as iio
import numpy as np
import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.training.metric_rows import read_rows, write_lines

logger = logging.getLogger(__name__)


class Tracker:
    """`<run>/tensorboard` and `<run>/metrics.jsonl`; a resumed run drops the rows after its checkpoint.

    Attributes:
        last: the newest value of every name logged so far, and the step of the last row.
    """

    def __init__(self, run_dir: Path, start: int = 0) -> None:
        """Open both files; `start` is the number of steps done already."""
        self.run_dir = run_dir
        self._open(start)

    def _open(self, start: int) -> None:
        self.board = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=start + 1)
        path = self.run_dir / "metrics.jsonl"
        kept = [row for row in read_rows(path) if row["step"] <= start] if start else []
        write_lines(path, kept)
        self.lines = path.open("a", buffering=1)
        self.last: dict[str, float] = {name: value for row in kept for name, value in row.items()}

    def rewind(self, step: int) -> None:
        """Drop what was logged after step `step`, since training goes on from there."""
        self.close()
        self._open(step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Log named numbers of step `step`."""
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        row = {"step": step, **values}
        self.lines.write(json.dumps(row) + "\n")
        self.last = self.last | row

    def images(self, step: int, name: str, frames: Tensor) -> None:
        """Log frames (n, 3, h, w) in [0, 1] as one grid."""
        self.board.add_images(name, frames.detach().float().clamp(0, 1).cpu(), step)

    def video(self, step: int, name: str, frames: np.ndarray, fps: int = 6) -> None:
        """Log a film, uint8 (t, height, width, 3), as an animated picture."""
        gif = iio.imwrite("<bytes>", frames, extension=".gif", duration=1000 / fps, loop=0)
        height, width = frames.shape[1:3]
        picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self.board._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=picture)]), step)

    def text(self, step: int, name: str, text: str) -> None:
        """Log a text, in Markdown."""
        self.board.add_text(name, text, step)

    def close(self) -> None:
        """Flush and close both files."""
        self.board.close()
        self.lines.close()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Meter:
    """Means over the steps since the last row."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the steps so far."""
        self.values: dict[str, list[float]] = {}
        self.tokens, self.steps, self.seconds, self.waited = 0, 0, 0.0, 0.0
        self.loads: Tensor | None = None

    def add(self, values: dict[str, float], tokens: int, seconds: float, waited: float, loads: Tensor | None = None) -> None:
        """Count one step.

        Args:
            values: numbers by name, of all processes.
            tokens: positions trained on, by all processes.
            seconds: that it took.
            waited: seconds of these that it waited for data.
            loads: (layers, 2, e) selections of experts by visual / other tokens, on any device; read when a row is made.
        """
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)
        self.tokens, self.steps = self.tokens + tokens, self.steps + 1
        self.seconds, self.waited = self.seconds + seconds, self.waited + waited
        if loads is not None and loads.numel():
            self.loads = loads.clone() if self.loads is None else self.loads + loads

    def row(self, flops: float = 0.0, matmul_rate: float = 0.0) -> dict[str, float]:
        """Return the means, speed and share of time spent waiting; starts over.

        Args:
            flops: floating-point operations of a step of this process; 0: they are not logged.
            matmul_rate: measured operations per second of a matrix product on its device.
        """
        row = {name: sum(values) / len(values) for name, values in self.values.items()}
        row |= {"tokens_per_second": self.tokens / self.seconds, "data/wait_share": self.waited / self.seconds}
        if flops:
            rate = flops * self.steps / self.seconds
            row |= {"speed/flops": rate, "speed/share_of_matmul": rate / matmul_rate}
        if self.loads is not None:
            row |= load_imbalance(self.loads)
        self.reset()
        return row


def load_imbalance(loads: Tensor) -> dict[str, float]:
    """Compute how unevenly experts are used: the load of the busiest over the mean, mean over layers; 1 is even.

    Args:
        loads: (layers, 2, e) selections by visual / other tokens.
    """
    by_kind = {"all": loads.sum(1), "visual": loads[:, 0], "other": loads[:, 1]}
    ratios = torch.stack([(load.amax(-1) / load.mean(-1).clamp_min(1e-9)).mean() for load in by_kind.values()]).tolist()
    return {f"experts/max_over_mean/{name}": ratio for name, ratio in zip(by_kind, ratios, strict=True)}


def shares(positions: dict[str, int]) -> dict[str, float]:
    """Compute the share of each source in all positions trained on so far."""
    total = sum(positions.values())
    return {f"data/share/{name}": count / total for name, count in sorted(positions.items())}


class EpochCounter:
    """Passes over each source of a mixture; says once when a source begins its second.

    Args:
        mixture: the sources.
        documents: how much of the stream lies behind already.
    """

    def __init__(self, mixture: Mixture, documents: int) -> None:
        self.mixture, self.before = mixture, mixture.epochs(documents)

    def row(self, documents: int) -> dict[str, float]:
        """Return the passes after so many documents of the stream, to be logged."""
        now = self.mixture.epochs(documents)
        for name, epochs in now.items():
            if epochs > 1 >= self.before[name]:
                logger.warning("source %r begins its second pass: the model sees its data again", name)
        self.before = now
        return {f"data/epochs/{name}": epochs for name, epochs in now.items()}
