"""Dream a held-out episode: an mp4 of truth above prediction, and the error by horizon beside copying the last frame."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worldmodel.agents.actions import describe_block
from worldmodel.agents.report import write_video
from worldmodel.checkpoint import Pretrained, from_pretrained
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError
from worldmodel.evaluation import LEAST_SPREAD, DreamConfig, DreamErrors, StateReader, dream_errors, linear_reader
from worldmodel.home import runs_dir
from worldmodel.rollout import Rollout, RolloutConfig
from worldmodel.scripts.console import run_verb
from worldmodel.scripts.pretrain import block_of
from worldmodel.training.samples import film
from worldmodel.unseen import held_out_episodes


@dataclass(frozen=True)
class DreamVerbConfig:
    """Which model dreams which episodes."""

    checkpoint: Path
    """Checkpoint or run folder, from worldmodel pretrain."""
    data: Path
    """Episode file; its held-out episodes are dreamt."""
    out: Path | None = None
    """The mp4; by default `dream.mp4` in the runs folder of WORLDMODEL_HOME."""
    dream: DreamConfig = field(default_factory=lambda: DreamConfig(horizon=0))
    """How many clips, how far."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Flow steps per frame and form of the actions."""
    shown: int = 6
    """Clips in the mp4."""

    def __post_init__(self) -> None:
        if self.shown < 1:
            raise UserError(f"shown is {self.shown}, must be at least 1")


def main(config: DreamVerbConfig) -> None:
    """Dream, print the table, write the film."""
    trained = from_pretrained(config.checkpoint)
    store = EpisodeStore(config.data, in_memory=True)
    episodes = held_out_episodes(trained, store)
    block = block_of(trained.model.config.action_dim, store.action_size, config.checkpoint, config.data)
    describe = None
    if config.rollout.action_form == "text":
        describe = describe_block(store.meta["env_id"], store.action_size)
    rollout = Rollout(trained.model, trained.tokenizer, config.rollout, describe)
    errors = dream_errors(rollout, trained.codec, store, episodes, block, config.dream, reader_of(trained, store, episodes))
    print(table(errors))
    out = config.out or runs_dir() / "dream.mp4"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_video(out, film(errors.truth[: config.shown], errors.dream[: config.shown]), fps=4, scale=3)
    print(f"{out}: truth above, dream below; the first {config.dream.context} frames are given")
    print(f"next: worldmodel evaluate --checkpoint {config.checkpoint} --data {config.data}")


def reader_of(trained: Pretrained, store: EpisodeStore, held_out: Sequence[int]) -> StateReader | None:
    """A linear reader of the true state, fitted on episodes that are not held out; None without such, or without true variables."""
    training = sorted(set(range(len(store))) - set(held_out))
    if not training:  # a file of which the model has seen nothing
        return None
    features = store.column("features")[store.frame_rows(training)]
    return linear_reader(trained.codec, store, training) if (features.std(axis=0) > LEAST_SPREAD).any() else None


NAMES = {
    "learned": "dream",
    "shuffled_actions": "shuffled actions",
    "copy_last_frame": "copy last frame",
    "true_frames": "read off true frames",
}
"""Titles of the columns."""


def table(errors: DreamErrors) -> str:
    """Errors by horizon as lines of text."""
    parts = [("mean squared error of the latents", errors.latent)]
    if errors.state:
        parts.append(("error of the true state as a probe reads it off the latents, in its standard deviations", errors.state))
    lines = []
    for title, columns in parts:
        lines += [f"{title} (+- half of the 95 % interval over {errors.episodes} episodes)"]
        lines.append("horizon  " + "".join(f"{NAMES[name]:>22}" for name in columns))
        for h in range(len(errors.latent["learned"])):
            cells = [values[h] for values in columns.values()]
            lines.append(f"{h + 1:>7}  " + "".join(f"{f'{mean:.4f} +- {half:.4f}':>22}" for mean, half in cells))
        lines.append("")
    lines.append(f"shuffled / true actions one step ahead: {errors.shuffled_over_true:.2f} (1: the actions do not matter)")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_verb("dream", lambda: main, sys.argv[1:]))
