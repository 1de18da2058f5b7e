"""Reading episode files: whole episodes, clips, single frames, in any order, in any process."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from worldmodel.datasets.episode import ACTION_TEXTS, Clip, Episode
from worldmodel.datasets.schema import (
    FRAME_COLUMNS,
    FRAME_TEXTS,
    FRAMES_PER_CHUNK,
    NUMBERS,
    TEXTS,
    VIEWS,
    open_file,
)
from worldmodel.errors import UserError


class EpisodeStore:
    """Reads an episode file; safe to hand to forked or spawned processes (each opens the file for itself).

    Args:
        path: the file.
        in_memory: decode every column once and keep it in RAM: H * W * 3 bytes a frame, 245 MB for 20,000 of
            64 px.

    Raises:
        UserError: the file is missing, truncated, damaged, not an episode file, or of another schema version.
    """

    def __init__(self, path: Path, in_memory: bool = False) -> None:
        self.path = Path(path)
        self.in_memory = in_memory
        self._memory: dict[str, np.ndarray] = {}
        self._columns: dict[str, h5py.Dataset] = {}  # open handles: a column keeps its chunk cache while one is open
        self._file, self._pid = open_file(self.path), os.getpid()
        self.meta = self._read_meta()
        self.cameras: list[str] = sorted(self._file.get(VIEWS, ()))
        self.lengths = self._rows("ep_len", 0, None)
        self._offsets = self._rows("ep_offset", 0, None)
        if in_memory:
            self._load()

    def _load(self) -> None:
        parts = [f"{name}/{part}" for name in TEXTS for part in ("bytes", "end")]
        views = [f"{VIEWS}/{camera}" for camera in self.cameras]
        self._memory = {name: self._rows(name, 0, None) for name in (*NUMBERS, *views, *parts)}

    def _read_meta(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._file.attrs["meta"]))
        except (OSError, KeyError, ValueError) as error:
            self._file.close()
            raise UserError(f"{self.path} is damaged (its meta data cannot be read); collect it again") from error

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.lengths)

    @property
    def num_frames(self) -> int:
        """Frames of all episodes together."""
        return int(self.lengths.sum()) + len(self)

    @property
    def image_size(self) -> int:
        """Height of a frame in pixels."""
        return int(self._column("frames").shape[1])

    @property
    def action_block(self) -> int:
        """Environment actions in one recorded step."""
        return int(self.meta.get("action_block", 1))

    @property
    def action_size(self) -> int:
        """Numbers in one environment action."""
        return int(self._column("actions").shape[1]) // self.action_block

    def episode(self, i: int) -> Episode:
        """The whole of episode i."""
        first, steps = self._first_row(i), int(self.lengths[i])
        frame_rows, action_rows = (first, first + steps + 1), (first - i, first - i + steps)
        columns: dict[str, Any] = {name: self._rows(name, *frame_rows) for name in FRAME_COLUMNS}
        columns |= {name: self._texts(name, *frame_rows) for name in FRAME_TEXTS}
        columns |= {name: self._texts(name, *action_rows) for name in ACTION_TEXTS}
        return Episode(
            **columns,
            actions=self._rows("actions", *action_rows),
            seed=int(self._rows("seed", i, i + 1)[0]),
            policy=self._texts("policy", i, i + 1)[0],
            variation=json.loads(self._texts("variation", i, i + 1)[0]),
            goal_state=self._rows("goal_state", i, i + 1)[0],
            goal_text=self.goal_text(i),
            views={camera: self._rows(f"{VIEWS}/{camera}", *frame_rows) for camera in self.cameras},
        )

    def clip(self, i: int, start: int, length: int, action_block: int = 1) -> Clip:
        """A window of episode i: `length` model steps of `action_block` environment steps each.

        Args:
            i: episode.
            start: environment step of the first frame; the clip must end within the episode.
            length: number of model steps t; the clip has t + 1 frames and t block actions.
            action_block: environment actions per model step, k.

        Raises:
            UserError: the file was recorded in blocks and k is not a multiple of them.
            ValueError: there is no such clip in the episode.
        """
        recorded = self.action_block
        if action_block % recorded or start % recorded:
            raise UserError(
                f"{self.path} was recorded in blocks of {recorded} actions; a clip in blocks of {action_block} from action "
                f"{start} on cannot be cut from it, take multiples of {recorded}"
            )
        in_steps, start_step = action_block // recorded, start // recorded  # of recorded steps
        steps = length * in_steps
        if length < 1 or action_block < 1 or not 0 <= start_step <= int(self.lengths[i]) - steps:
            raise ValueError(
                f"episode {i} of {self.path} has {self.lengths[i] * recorded} actions; a clip of {length} steps of "
                f"{action_block} cannot start at {start}"
            )
        row = self._first_row(i) + start_step
        action_rows = (row - i, row - i + steps)
        texts = {name: self._texts(name, *action_rows) for name in ACTION_TEXTS}
        joined = {name: ["; ".join(rows[t : t + in_steps]) for t in range(0, steps, in_steps)] for name, rows in texts.items()}
        return Clip(
            frames=np.ascontiguousarray(self._rows("frames", row, row + steps + 1)[::in_steps]),
            actions=self._rows("actions", *action_rows).reshape(length, -1),  # (t k) a -> t (k a)
            **joined,
            start=start,
            episode=i,
        )

    def frame(self, i: int, t: int) -> np.ndarray:
        """Frame t of episode i: uint8 (H, W, 3)."""
        row = self._frame_row(i, t)
        return self._rows("frames", row, row + 1)[0]

    def caption(self, i: int, t: int) -> str:
        """The sentence recorded with frame t of episode i."""
        row = self._frame_row(i, t)
        return self._texts("captions", row, row + 1)[0]

    def question(self, i: int, t: int) -> tuple[str, str]:
        """The question recorded with frame t of episode i, and its answer."""
        row = self._frame_row(i, t)
        return self._texts("questions", row, row + 1)[0], self._texts("answers", row, row + 1)[0]

    def view(self, i: int, camera: str) -> np.ndarray:
        """What one of `cameras`, the additional ones, saw in episode i: uint8 (T+1, H, W, 3)."""
        if camera not in self.cameras:
            there = ", ".join(self.cameras) or "none"
            raise UserError(f"{self.path} has no additional camera {camera!r}; there are: {there}")
        row = self._first_row(i)
        return self._rows(f"{VIEWS}/{camera}", row, row + int(self.lengths[i]) + 1)

    def action_words(self, i: int, t: int) -> str:
        """The action that leaves frame t of episode i, in coarse words."""
        return self._action_text("action_words", i, t)

    def change(self, i: int, t: int) -> str:
        """What changed from frame t to frame t + 1 of episode i, as a sentence."""
        return self._action_text("changes", i, t)

    def goal_text(self, i: int) -> str:
        """The goal of episode i as an instruction."""
        self._first_row(i)
        return self._texts("goal_text", i, i + 1)[0]

    def frame_rows(self, episodes: Iterable[int]) -> np.ndarray:
        """Rows of all frames of some episodes, int64; see `frames` and `column`."""
        spans = [np.arange(self._offsets[i], self._offsets[i] + self.lengths[i] + 1) for i in episodes]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)

    def frames(self, rows: np.ndarray) -> np.ndarray:
        """Frames of any row numbers, in the order asked: uint8 (len(rows), H, W, 3)."""
        rows = np.asarray(rows, np.int64)
        if self.in_memory:
            return self._memory["frames"][rows]
        frames = np.empty((len(rows), *self._column("frames").shape[1:]), np.uint8)
        chunk = rows // FRAMES_PER_CHUNK
        for index in np.unique(chunk):  # each chunk is decoded once
            members = np.flatnonzero(chunk == index)
            start = index * FRAMES_PER_CHUNK
            frames[members] = self._rows("frames", start, start + FRAMES_PER_CHUNK)[rows[members] - start]
        return frames

    def column(self, name: str) -> np.ndarray:
        """A whole numeric column (`features`, `state`, `actions`, ...), all episodes end to end."""
        if name not in NUMBERS:
            raise ValueError(f"no column {name!r}; there are {', '.join(NUMBERS)}")
        return self._rows(name, 0, None)

    def texts(self, name: str) -> list[str]:
        """A whole text column: `captions`, `questions`, `action_words`, `policy`, `variation` (JSON), ..."""
        if name not in TEXTS:
            raise ValueError(f"no text column {name!r}; there are {', '.join(TEXTS)}")
        return self._texts(name, 0, len(self._column(f"{name}/end")))

    def split(self, seed: int, validation: float = 0.1) -> tuple[list[int], list[int]]:
        """Episodes for training and for validation, disjoint, the same for the same seed.

        Args:
            seed: of the shuffle.
            validation: share of the episodes kept for validation; at least one is, and one is left over.
        """
        if len(self) < 2:
            raise UserError(f"{self.path} has {len(self)} episode; two are needed to keep one for validation")
        order = np.random.default_rng(seed).permutation(len(self)).tolist()
        held = min(max(1, round(validation * len(self))), len(self) - 1)
        return sorted(order[held:]), sorted(order[:held])

    def close(self) -> None:
        """Closes the file; a store kept in memory stays readable."""
        if self._pid == os.getpid():
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[type, tuple[Path, bool]]:
        return EpisodeStore, (self.path, self.in_memory)

    def _first_row(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"episode {i} asked of {self.path}, which has {len(self)}")
        return int(self._offsets[i])

    def _frame_row(self, i: int, t: int) -> int:
        first = self._first_row(i)
        if not 0 <= t <= self.lengths[i]:
            raise IndexError(f"frame {t} asked of episode {i} of {self.path}, which has {self.lengths[i] + 1}")
        return first + t

    def _action_text(self, name: str, i: int, t: int) -> str:
        first = self._first_row(i) - i
        if not 0 <= t < self.lengths[i]:
            raise IndexError(f"action {t} asked of episode {i} of {self.path}, which has {self.lengths[i]}")
        return self._texts(name, first + t, first + t + 1)[0]

    def _column(self, name: str) -> Any:
        if name in self._memory:
            return self._memory[name]
        if self._pid != os.getpid():  # forked: HDF5 handles of the parent must not be shared
            self._file, self._pid, self._columns = open_file(self.path), os.getpid(), {}
        if name not in self._columns:
            try:
                self._columns[name] = self._file[name]
            except KeyError as error:
                raise UserError(f"{self.path} is damaged (column {name} cannot be found); collect it again") from error
        return self._columns[name]

    def _rows(self, name: str, start: int, stop: int | None) -> np.ndarray:
        column = self._column(name)
        if name in self._memory:
            return column[start:stop].copy()
        try:
            return column[start:stop]
        except OSError as error:
            raise UserError(f"{self.path} is damaged (column {name} cannot be read); collect it again") from error

    def _texts(self, name: str, start: int, stop: int) -> list[str]:
        ends = self._rows(f"{name}/end", max(start - 1, 0), stop).tolist()
        bounds = ends if start > 0 else [0, *ends]
        data = self._rows(f"{name}/bytes", bounds[0], bounds[-1]).tobytes()
        return [data[a - bounds[0] : b - bounds[0]].decode() for a, b in zip(bounds, bounds[1:], strict=False)]
