"""Dream: two frames of a held-out episode and its actions are given, the model of 03_train.py predicts what comes after.

Writes dream.gif: truth on the left, the dream on the right.
"""

from pathlib import Path

import numpy as np
import torch
import tyro

from worldmodel.checkpoint import read_checkpoint
from worldmodel.codec.frames import decode_video
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.films import write_film
from worldmodel.rollout import Rollout, RolloutConfig
from worldmodel.unseen import held_out_episodes


def main(horizon: int = 8, seed: int = 0) -> None:
    """Dream one episode.

    Args:
        horizon: model steps to predict.
        seed: of the noise that frames are made from.
    """
    trained = read_checkpoint("run")
    store = EpisodeStore(Path("rooms.h5"))
    block = trained.model.config.action_dim // store.action_size  # env steps in a model step
    clip = store.clip(held_out_episodes(trained, store)[0], 0, 1 + horizon, block)
    actions = torch.from_numpy(clip.actions[None])  # (1, 1 + horizon, a): actions[:, i] leads from frame i to frame i + 1

    rollout = Rollout(trained.model, trained.tokenizer, RolloutConfig(num_steps=4))
    state = rollout.encode(trained.codec.encode_frames(clip.frames[None, :2]), actions[:, :1])
    futures = rollout.rollout(state, actions[:, None, 1:], torch.Generator().manual_seed(seed))  # one candidate: (1, 1, horizon, n, c)
    dream = np.concatenate([clip.frames[:2], decode_video(trained.codec, futures[:, 0])[0]])

    def error(guess: np.ndarray) -> float:
        return float(np.square(guess / 255 - clip.frames[2:] / 255).mean())

    print(f"squared error of the pixels: dream {error(dream[2:]):.4f}, last frame copied {error(clip.frames[1]):.4f}")
    write_film(Path("dream.gif"), np.concatenate([clip.frames, dream], axis=2), label=("truth", "dream"))
    print("dream.gif: truth, dream")


if __name__ == "__main__":
    tyro.cli(main)
