"""Collect episodes of a task into a file, and read clips of it in shuffled batches, as any training loop would."""

from pathlib import Path

import tyro

from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.episodes.clips import ClipDataset
from worldmodel.datasets.episodes.loader import ClipLoader
from worldmodel.datasets.episodes.store import EpisodeStore


def main(episodes: int = 500, max_steps: int = 40) -> None:
    """Record TwoRoom, and read it.

    Args:
        episodes: to record.
        max_steps: actions of each.
    """
    file = Path("rooms.h5")
    collect(CollectConfig("worldmodel/TwoRoom-v0", file, episodes, max_steps=max_steps, variation=("disc.color",)))
    with EpisodeStore(file) as store:
        episode = store.episode(0)
    print(f"{len(episode)} actions {episode.actions.shape}, {len(episode.frames)} frames {episode.frames.shape}, by {episode.policy}")
    print("first frame:", episode.captions[0], "|", episode.questions[0], episode.answers[0])

    clips = ClipDataset([file], num_steps=4, action_block=3)  # 5 frames, 4 blocks of 3 actions between them
    for i, batch in enumerate(ClipLoader(clips, batch_size=8, seed=0, stop=3)):  # batch i follows from seed and i
        print(f"batch {i}: frames {batch['frames'].shape} {batch['frames'].dtype}, actions {batch['actions'].shape}")


if __name__ == "__main__":
    tyro.cli(main)
