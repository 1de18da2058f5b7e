"""Episodes made of random numbers, each different from every other in every field."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.writer import write_episodes


def make_episode(index: int = 0, num_actions: int = 5, size: int = 16, **changes: Any) -> Episode:
    rng = np.random.default_rng(index)
    rows = num_actions + 1
    fields: dict[str, Any] = dict(
        frames=rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8),
        proprio=rng.normal(size=(rows, 3)).astype(np.float32),
        state=rng.normal(size=(rows, 7)),
        features=rng.normal(size=(rows, 2)).astype(np.float32),
        success=rng.random(rows) < 0.5,
        captions=[f"a red disc, episode {index} frame {t}" for t in range(rows)],
        questions=[f"où est le disque? {index}/{t}" for t in range(rows)],
        answers=["" if t == 0 else f"left {index}.{t}" for t in range(rows)],
        actions=rng.uniform(-1, 1, (num_actions, 2)).astype(np.float32),
        action_texts=[f"action: {index} {t}" for t in range(num_actions)],
        action_words=[f"move {index}.{t}" for t in range(num_actions)],
        changes=[f"the disc moved {index}.{t}" for t in range(num_actions)],
        reward=np.random.default_rng([index, 1]).normal(size=num_actions),
        terminated=np.random.default_rng([index, 2]).random(num_actions) < 0.3,
        truncated=np.random.default_rng([index, 3]).random(num_actions) < 0.3,
        seed=1000 + index,
        policy="random",
        variation={"disc.color": "red", "door.width": 0.5 + index},
        goal_state=rng.normal(size=7),
        goal_text=f"goal {index}",
    )
    return Episode(**(fields | changes))


def make_schema_3(path: Path) -> None:
    """Take from an episode file what schema 4 has brought: it is one of schema 3 then."""
    with h5py.File(path, "r+") as file:
        for name in ("reward", "terminated", "truncated"):
            del file[name]
        file.attrs["schema_version"] = 3


def write_toy_file(path: Path, lengths: tuple[int, ...] = (5, 3, 40, 7), size: int = 16) -> list[Episode]:
    """Writes a file of episodes with these numbers of actions; returns them."""
    episodes = [make_episode(i, length, size) for i, length in enumerate(lengths)]
    write_episodes(path, episodes, {"env_id": "toy", "seed": 0})
    return episodes
