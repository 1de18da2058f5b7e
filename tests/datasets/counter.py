"""A counter video: frame t shows the number t, action t is t. A format that shifts frames against actions is found out.

The number is drawn as 4 x 4 black and white cells, its 16 bits, so that it survives mp4, JPEG and resizing.
"""

from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.writer import write_episodes

CELLS = 4
"""Cells per side."""


def draw_number(number: int, size: int = 32) -> np.ndarray:
    """The picture of a number in [0, 65536): uint8 (size, size, 3); size is a multiple of 4."""
    bits = number >> np.arange(CELLS * CELLS) & 1
    cells = np.where(bits, 235, 20).astype(np.uint8).reshape(CELLS, CELLS)
    return np.repeat(np.kron(cells, np.ones((size // CELLS,) * 2, np.uint8))[..., None], 3, axis=-1)


def read_number(frame: np.ndarray) -> int:
    """The number that a square frame (H, W, 3) shows; fails when a cell is neither dark nor bright."""
    side = len(frame) // CELLS
    cells = frame[: side * CELLS, : side * CELLS].reshape(CELLS, side, CELLS, side, 3).mean((1, 3, 4)).ravel()
    assert np.all(np.abs(cells - 127.5) > 40), f"no number can be read: cells {cells.round()}"
    return int(((cells > 127.5) << np.arange(CELLS * CELLS)).sum())


def read_numbers(frames: np.ndarray) -> list[int]:
    """The numbers that frames (N, H, W, 3) show."""
    return [read_number(frame) for frame in frames]


def counter_episode(num_actions: int = 6, first: int = 0, size: int = 32, action_size: int = 1, **changes: Any) -> Episode:
    """An episode in which frame t shows first + t and every number of action t is first + t.

    `proprio` (width 2) and `state` (width 3) of frame t are first + t as well; the last frame is a success. The reward of action t is
    first + t + 0.1, the last action terminates.

    Args:
        num_actions: T.
        first: number of the first frame.
        size: height and width of a frame in pixels, a multiple of 4.
        action_size: numbers in an action; 0 for video without actions.
        changes: other fields, as they shall be.
    """
    numbers = np.arange(first, first + num_actions + 1)
    column = numbers[:, None].astype(np.float64)
    fields: dict[str, Any] = dict(
        frames=np.stack([draw_number(int(number), size) for number in numbers]),
        proprio=np.repeat(column, 2, axis=1).astype(np.float32),
        state=np.repeat(column, 3, axis=1),
        features=np.zeros((num_actions + 1, 1), np.float32),
        success=numbers == numbers[-1],
        captions=[f"the number {number}" for number in numbers],
        questions=["which number is it?"] * (num_actions + 1),
        answers=[str(number) for number in numbers],
        actions=np.repeat(column[:-1], action_size, axis=1).astype(np.float32),
        action_texts=[f"action: {number}" for number in numbers[:-1]],
        action_words=["count on"] * num_actions,
        changes=["the number grew by one"] * num_actions,
        reward=numbers[:-1] + 0.1,
        terminated=numbers[1:] == numbers[-1],
        truncated=np.zeros(num_actions, np.bool_),
        seed=first,
        policy="counter",
        variation={},
        goal_state=np.full(3, float(numbers[-1])),
        goal_text=f"count to {numbers[-1]}",
    )
    return Episode(**(fields | changes))


def assert_counts(episode: Episode, num_actions: int, first: int = 0) -> None:
    """Fails unless frames show first, first + 1, ... and the action between two frames is the number of the earlier one."""
    assert read_numbers(episode.frames) == list(range(first, first + num_actions + 1))
    expected = np.arange(first, first + num_actions)[:, None]
    assert len(episode) == num_actions
    assert np.array_equal(episode.actions, np.broadcast_to(expected, episode.actions.shape)), episode.actions


def assert_pays(episode: Episode) -> None:
    """Fails unless reward t is that of action t of a counter, the last action alone terminates, and none is truncated."""
    assert np.array_equal(episode.reward, episode.actions[:, 0].astype(np.float64) + 0.1), episode.reward
    assert episode.terminated.tolist() == [False] * (len(episode) - 1) + [True] and not episode.truncated.any()


def assert_pays_nothing(episode: Episode) -> None:
    """Fails unless an episode says that nobody recorded what its actions returned."""
    assert np.isnan(episode.reward).all() and not episode.terminated.any() and not episode.truncated.any()


def write_counter_file(path: Path, lengths: tuple[int, ...] = (6, 3, 9), size: int = 32, action_size: int = 1) -> list[Episode]:
    """Writes an episode file of counters with these numbers of actions; episode i starts at 100 i. Returns the episodes."""
    episodes = [counter_episode(length, 100 * i, size, action_size) for i, length in enumerate(lengths)]
    meta = {"env_id": "counter", "seed": 0, "feature_names": ["nothing"], "action_block": 1}
    write_episodes(path, episodes, meta)
    return episodes
