"""The guard of a run: batches that would spoil the weights are not trained on, and spoiled weights are taken back.

Three steps, each decided from numbers that all processes share, so that they decide alike:

1. A batch whose loss or gradient norm is not finite, or stands out from those before it, is skipped: no update is made.
2. When several of the latest batches were skipped, the weights are suspected and not the data: training goes back to a checkpoint and
   goes on with the batches after the bad ones (as PaLM's authors did by hand, arXiv 2204.02311, section 5.1).
3. When that happens again and again without coming further, the run ends with a sentence.

All that is remembered is in the run's progress, and so in every checkpoint: a run that was killed decides as if it had not been.
"""

import json
import logging
import statistics
from pathlib import Path
from typing import Any

from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.errors import UserError
from worldmodel.training.config import TrainConfig
from worldmodel.training.loop import not_finite
from worldmodel.training.metric_rows import is_count, read_lines, write_lines
from worldmodel.training.resume import Progress

NAMED = 5
"""Documents of a skipped batch that a warning names."""
logger = logging.getLogger(__name__)


class SpikeDetector:
    """Judges each step's loss and gradient norm.

    Attributes:
        progress: the run's; what the spike detector remembers is in it.
    """

    def __init__(self, config: TrainConfig, progress: Progress) -> None:
        self.config, self.progress = config, progress

    def check(self, loss: float, norm: float) -> str | None:
        """Say why the present batch must not be trained on; None if there is no reason.

        Args:
            loss: total loss of the whole step, all processes together.
            norm: norm of its gradient before clipping.
        """
        config, progress = self.config, self.progress
        values = {"loss": loss, "gradient norm": norm}
        if (name := not_finite(values)) is not None:
            return f"its {name} is {values[name]:.4g}"
        if not config.spike_deviations or progress.step < config.warmup_steps or len(progress.losses) < config.spike_window:
            return None
        for name, value, before, factor in (
            ("loss", loss, progress.losses, config.spike_factor),
            ("gradient norm", norm, progress.norms, config.spike_gradient_factor),
        ):
            mean, deviation = statistics.fmean(before), statistics.pstdev(before)
            if value > mean + config.spike_deviations * deviation and value > mean + (factor - 1) * abs(mean):
                return f"its {name} is {value:.4g} where the last {len(before)} steps had {mean:.4g} +- {deviation:.2g}"
        return None

    def accept(self, loss: float, norm: float) -> None:
        """Add a step to the history; to be called when it was made and counted."""
        for values, value in ((self.progress.losses, loss), (self.progress.norms, norm)):
            values.append(value)
            del values[: -self.config.spike_window]
        if self.progress.step > self.progress.trouble:
            self.progress.rollbacks = 0

    def skip(self) -> bool:
        """Pass over the present batch; returns whether the weights are now suspected."""
        batch, progress = self.progress.position, self.progress
        progress.skipped.append(batch)
        progress.suspects = [*(i for i in progress.suspects if i > batch - self.config.spike_recent), batch]
        return len(progress.suspects) >= self.config.spike_patience

    def go_back(self, checkpoints: list[Path], run_dir: Path, reason: str) -> Path:
        """Choose the checkpoint to go back to: the newest, and an older one each time that it did not help.

        Args:
            checkpoints: of the run, oldest first.
            run_dir: of the run, for the message.
            reason: what was wrong with the last batch.

        Raises:
            UserError: there is none, or training went back too often.
        """
        rollbacks = self.progress.rollbacks + 1
        if not checkpoints or rollbacks > self.config.max_rollbacks:
            tried = f"going back {rollbacks - 1} times did not help" if checkpoints else "there is nothing to go back to"
            newest = f"the last checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint yet"
            suspects = ", ".join(str(batch) for batch in self.progress.suspects)
            raise UserError(
                f"after step {self.progress.step} the batches {suspects} could not be trained on (the last, {reason}) and {tried}; "
                f"{newest}; train with a lower lr, or look for broken values in the documents of {run_dir / 'skipped.jsonl'}"
            )
        return checkpoints[-min(rollbacks, len(checkpoints))]

    def resume(self, progress: Progress) -> None:
        """Go on from the older state `progress` with the batches that come now: those in between are never trained on."""
        before = self.progress
        progress.skipped += range(progress.position, before.position)
        progress.suspects = []
        progress.rollbacks, progress.trouble = before.rollbacks + 1, max(before.step, before.trouble)
        self.progress = progress


class SkippedBatches:
    """`<run>/skipped.jsonl`: a line for every batch that was passed over, with its documents.

    Args:
        run_dir: of the run.
        mixture: that document numbers refer to.
        position: number of the next batch; what was written about later ones, before the run was killed, is dropped.
    """

    def __init__(self, run_dir: Path, mixture: Mixture, position: int) -> None:
        self.path, self.mixture = run_dir / "skipped.jsonl", mixture
        kept = [row for row in read_skipped(self.path) if row["batch"] < position]
        if self.path.exists():
            write_lines(self.path, kept)

    def add(self, batch: int, step: int, reason: str, documents: tuple[int, ...]) -> None:
        """Note a batch and warn of it.

        Args:
            batch: its number.
            step: optimizer steps done when it came.
            reason: why it was skipped.
            documents: numbers in the mixture of the documents in it.
        """
        found: list[dict[str, Any]] = []
        for index in dict.fromkeys(documents):
            draw = self.mixture.draw(index)
            name = self.mixture.sources[draw.source].name
            found.append({"source": name, "epoch": draw.epoch, "item": draw.item, "document": index})
        with self.path.open("a") as file:
            file.write(json.dumps({"batch": batch, "step": step, "reason": reason, "documents": found}) + "\n")
        shown = ", ".join(f"{each['source']} item {each['item']} (pass {each['epoch'] + 1})" for each in found[:NAMED])
        more = f" and {len(found) - NAMED} more, see {self.path}" if len(found) > NAMED else ""
        logger.warning("batch %d is skipped after step %d, since %s; it holds %s%s", batch, step, reason, shown, more)


def read_skipped(path: Path) -> list[dict[str, Any]]:
    """Read all rows of a run's `skipped.jsonl`; [] where there is no file. Lines that are no rows are left out with a warning."""
    return read_lines(path, lambda row: is_count(row.get("batch")))
