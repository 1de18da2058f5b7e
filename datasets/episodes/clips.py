"""Windows of episode files as arrays, for a training loop of one's own.

    clips = ClipDataset("episodes.h5", num_steps=4)
    loader = torch.utils.data.DataLoader(clips, batch_size=32, shuffle=True, num_workers=2)

`ClipLoader` (`loader.py`) reads ahead by threads and gives its batches sooner than processes do. Nothing here needs torch:
a data set is something with a length and items, and arrays become tensors in the loader.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldmodel.datasets.episodes.episode import OUTCOMES
from worldmodel.datasets.episodes.schema import ACTION_COLUMNS, FRAME_COLUMNS, VIEWS
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError


class ClipDataset:
    """All windows of `num_steps` model steps in all episodes of some files; safe in forked and spawned workers.

    An item is a dict of arrays: `frames` uint8 (t+1, H, W, 3), `actions` float32 (t, k*a), and any other column of
    frames, e.g. `state` float64 (t+1, n); `actions[i]` leaves `frames[i]` and arrives at `frames[i + 1]`. `reward` float64 (t,) is
    the sum over the k actions of a model step, `terminated` and `truncated` bool (t,) whether any of them ended the episode; a reward
    is NaN where any of them was not recorded.

    Args:
        paths: an episode file, or several with rows of the same shapes.
        num_steps: model steps t in a window.
        action_block: environment actions per model step, k; a multiple of the recorded block.
        columns: what to read: `frames`, `actions`, `reward`, `terminated`, `truncated`, `proprio`, `state`, `features`, `success`,
            `views/<camera>`.
        episodes: which episodes to use, all by default: numbers, or one list of numbers for each of several files.

    Raises:
        UserError: no such column; the files do not fit together; no episode is long enough.
    """

    def __init__(
        self,
        paths: Path | str | Sequence[Path | str],
        num_steps: int,
        action_block: int = 1,
        columns: Sequence[str] = ("frames", "actions"),
        episodes: Sequence[int] | Sequence[Sequence[int]] | None = None,
    ) -> None:
        if num_steps < 1 or action_block < 1:
            raise UserError(f"a clip needs at least 1 step of 1 action, got {num_steps} of {action_block}")
        files = [paths] if isinstance(paths, str | Path) else list(paths)
        self.num_steps, self.action_block, self.columns = num_steps, action_block, tuple(columns)
        self.stores = [EpisodeStore(Path(path)) for path in files]
        self._shapes = _same_shapes(self.stores, self.columns)
        self._in_steps = [store.recorded_steps(action_block) for store in self.stores]
        chosen = _chosen(self.stores, episodes)
        lengths = np.concatenate([store.lengths[numbers] for store, numbers in zip(self.stores, chosen, strict=True)])
        self._file = np.repeat(np.arange(len(self.stores)), [len(numbers) for numbers in chosen])
        self._episode = np.concatenate(chosen)
        self._first_row = np.concatenate([store.offsets[numbers] for store, numbers in zip(self.stores, chosen, strict=True)])
        in_clip = num_steps * np.array(self._in_steps, np.int64)[self._file]
        self._stops = np.cumsum(np.maximum(lengths - in_clip + 1, 0))  # windows up to and with each episode
        if len(self) == 0:
            names = ", ".join(str(path) for path in files)
            raise UserError(
                f"{names}: none of {len(lengths)} episodes holds a clip of {num_steps} steps of {action_block} actions; "
                "take shorter clips or longer episodes"
            )

    def __len__(self) -> int:
        """Return the number of windows."""
        return int(self._stops[-1]) if len(self._stops) else 0

    def place(self, i: int) -> tuple[int, int, int]:
        """Return (file, episode, environment step of the first frame) of window i."""
        which, start = self._locate(np.array([i]))
        file = int(self._file[which[0]])
        return file, int(self._episode[which[0]]), int(start[0]) * self.stores[file].action_block

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """Read window i."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"clip {i} asked of {len(self)}")
        return {name: rows[0] for name, rows in self.batch([i % len(self)]).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """Read some windows, each a part of the arrays of `batch`; what a DataLoader calls."""
        batch = self.batch(indices)
        return [{name: rows[place] for name, rows in batch.items()} for place in range(len(indices))]

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Read some windows into one array each, `frames` (b, t+1, H, W, 3): nothing is copied after it was read."""
        which, start = self._locate(np.asarray(indices, np.int64))
        files, rows = self._file[which], self._first_row[which] + start
        action_rows = rows - self._episode[which]
        return {name: self._read(name, files, action_rows if name in ACTION_COLUMNS else rows) for name in self.columns}

    def _locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find positions among the chosen episodes, and recorded steps of the first frames."""
        which = np.searchsorted(self._stops, indices, side="right")
        return which, indices - np.where(which > 0, self._stops[which - 1], 0)

    def _read(self, name: str, files: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Read a column of some windows (b, t+1, ...), of actions (b, t, k*a) or outcomes (b, t), which start at these rows."""
        row_shape, dtype = self._shapes[name]
        if name in OUTCOMES:
            return self._outcomes(name, files, rows, dtype)
        is_action = name == "actions"
        shape = (self.num_steps, self.action_block * row_shape[0]) if is_action else (self.num_steps + 1, *row_shape)
        out = np.empty((len(rows), *shape), dtype)
        for file, store in enumerate(self.stores):
            members = np.flatnonzero(files == file)
            part = out if len(members) == len(out) else np.empty((len(members), *shape), dtype)
            if is_action:
                recorded = part.reshape(len(part), self.num_steps * self._in_steps[file], *store.row_shape(name))
                store.windows(name, rows[members], 1, recorded)
            else:
                store.windows(name, rows[members], self._in_steps[file], part)
            if part is not out:
                out[members] = part
        return out

    def _outcomes(self, name: str, files: np.ndarray, rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Read rewards or flags of some windows, (b, t): the sum over the recorded steps of a model step, or whether any is true."""
        out = np.empty((len(rows), self.num_steps), dtype)
        for file, store in enumerate(self.stores):
            members = np.flatnonzero(files == file)
            recorded = np.empty((len(members), self.num_steps * self._in_steps[file]), dtype)
            store.windows(name, rows[members], 1, recorded)
            steps = recorded.reshape(len(members), self.num_steps, self._in_steps[file])
            out[members] = steps.sum(axis=2) if name == "reward" else steps.any(axis=2)
        return out


def _same_shapes(stores: list[EpisodeStore], columns: Sequence[str]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and type of a row of each column, the same in all files (of actions: of one environment action)."""
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    if not stores:
        raise UserError("no episode file to take clips from; give at least one")
    for store in stores:
        there = (*FRAME_COLUMNS, *ACTION_COLUMNS, *(f"{VIEWS}/{camera}" for camera in store.cameras))
        for name in columns:
            if name not in there:
                raise UserError(f"{store.path} has no column {name!r} of frames or actions; there are {', '.join(there)}")
            shape = (store.action_size,) if name == "actions" else store.row_shape(name)
            if shapes.setdefault(name, (shape, store.dtype(name)))[0] != shape:
                raise UserError(f"{name} rows of {store.path} have shape {shape}, those of {stores[0].path} {shapes[name][0]}")
    return shapes


def _chosen(stores: list[EpisodeStore], episodes: Sequence[int] | Sequence[Sequence[int]] | None) -> list[np.ndarray]:
    """Return the numbers of the episodes to use of each file."""
    if episodes is None:
        return [np.arange(len(store)) for store in stores]
    several = len(episodes) > 0 and not isinstance(episodes[0], int | np.integer)
    lists = list(episodes) if several else [episodes]
    if len(lists) != len(stores):
        raise UserError(f"{len(lists)} lists of episodes for {len(stores)} files; give one list for each")
    chosen = [np.asarray(numbers, np.int64) for numbers in lists]
    for store, numbers in zip(stores, chosen, strict=True):
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(store):
            raise UserError(f"{store.path} has episodes 0 to {len(store) - 1}; asked for {numbers.min()} to {numbers.max()}")
    return chosen
