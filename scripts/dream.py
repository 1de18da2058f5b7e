"""Dream a held-out episode: a film of truth above prediction, and the error by horizon compared with copying the last frame."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from worldmodel.agents.world import rollout_of
from worldmodel.checkpoint import read_checkpoint
from worldmodel.codec.codec import Codec
from worldmodel.codec.frames import decode_video
from worldmodel.datasets.episodes.episode import Clip
from worldmodel.datasets.films import ENDINGS, write_film
from worldmodel.datasets.outputs import check_output
from worldmodel.dream_film import film, table
from worldmodel.errors import UserError
from worldmodel.evaluation import DreamConfig, draw_clips, dream_errors, reader_of, within
from worldmodel.home import runs_dir
from worldmodel.known_tasks import data_of, open_data
from worldmodel.precision import choose_device
from worldmodel.rollout import Rollout, RolloutConfig
from worldmodel.scripts.console import command, run_verb, stages
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.unseen import held_out_episodes


@dataclass(frozen=True)
class DreamVerbConfig(JsonFlag):
    """Dream held-out episodes from their actions: a film of truth above prediction, and the error by horizon beside controls.

    `worldmodel dream --checkpoint run --out dream.mp4` dreams episodes of the run's own file.
    """

    checkpoint: Path
    """Checkpoint or run folder, from worldmodel pretrain."""
    data: Path | None = None
    """Episode file; its held-out episodes are dreamed. By default the one that the checkpoint was trained on."""
    task: str = ""
    """Which of the tasks that the checkpoint was trained on, by name; by default that of its first file."""
    out: Path | None = None
    """The film, .mp4 or .gif; by default `dream.mp4` in the runs folder of WORLDMODEL_HOME."""
    overwrite: bool = False
    """Replace a file of that name which worldmodel did not make."""
    dream: DreamConfig = field(default_factory=lambda: DreamConfig(horizon=0))
    """How many clips, how far."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Flow steps per frame and form of the actions."""
    shown: int = 6
    """Clips in the film."""
    film_steps: int = 8
    """Flow steps per frame of the film: more than the errors are measured with, which is crisper."""
    device: str = "auto"
    """auto: the first GPU, else the CPU; or cpu, cuda, cuda:N."""

    def __post_init__(self) -> None:
        for name in ("shown", "film_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")


def main(config: DreamVerbConfig) -> dict[str, object]:
    """Dream, print the table, write the film."""
    out, device = config.out or runs_dir() / "dream.mp4", choose_device(config.device)
    data = config.data or data_of(config.checkpoint, config.task)
    check_output(out, ENDINGS, [data], config.overwrite)
    with stages("reading the model", "fitting what reads the true state", "dreaming", "drawing the film") as end:
        trained = read_checkpoint(config.checkpoint, device)
        store, block = open_data(trained, config.checkpoint, data, config.task)
        episodes = held_out_episodes(trained, store)
        rollout = rollout_of(trained, store.meta["env_id"], store.action_size, config.rollout)
        end()
        reader = reader_of(trained, store, episodes)
        end()
        errors = dream_errors(rollout, trained.codec, store, episodes, block, config.dream, reader)
        end()
        clips = draw_clips(store, episodes, block, within(config.dream, store, episodes, block))[: config.shown]
        frames = film(errors.truth[: config.shown], again(rollout, trained.codec, clips, config))
        write_film(out, frames)
        end()
    print(table(errors))
    print(f"{out}: truth above, dream below; the first {config.dream.context} frames are given")
    print(f"next: {command('evaluate', '--checkpoint', config.checkpoint, '--data', data)}")
    return errors.to_json() | {"film": out}


def again(rollout: Rollout, codec: Codec, clips: Sequence[Clip], config: DreamVerbConfig) -> np.ndarray:
    """Predict what follows the first frames of some clips, in the flow steps of the film: uint8 (b, h, height, width, 3)."""
    crisp = rollout.with_config(replace(rollout.config, num_steps=config.film_steps))
    context = config.dream.context
    past = codec.encode_frames(np.stack([clip.frames[:context] for clip in clips]))
    actions = torch.from_numpy(np.stack([clip.actions for clip in clips]))
    state = crisp.encode(past, actions[:, : context - 1])
    dreamt = crisp.rollout(state, actions[:, None, context - 1 :], torch.Generator().manual_seed(config.dream.seed))
    return decode_video(codec, dreamt[:, 0])


if __name__ == "__main__":
    sys.exit(run_verb("dream", lambda: main, sys.argv[1:]))
