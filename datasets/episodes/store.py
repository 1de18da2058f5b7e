"""Reading episode files: whole episodes, clips, single frames, in any order, in any process."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from worldmodel.datasets.episodes.chunks import UNREADABLE, ColumnReader
from worldmodel.datasets.episodes.episode import ACTION_TEXTS, Clip, Episode
from worldmodel.datasets.episodes.identity import chosen_share, identities
from worldmodel.datasets.episodes.schema import (
    ACTION_COLUMNS,
    FRAME_COLUMNS,
    FRAME_TEXTS,
    NUMBERS,
    TEXTS,
    VIEWS,
    Storage,
    damaged,
    open_file,
    read_meta,
)
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError


class EpisodeStore:
    """Reads an episode file; safe to share among threads and forked processes, and to hand to spawned ones.

    What it holds of the file are small columns of numbers once they were used, and where uncompressed chunks lie.

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
        self._reader, self.meta = self._open()
        self.cameras: list[str] = self._reader.cameras
        self.lengths: np.ndarray = self._reader.rows("ep_len", 0, self._reader.num_rows("ep_len"))
        self.offsets: np.ndarray = self._reader.rows("ep_offset", 0, len(self.lengths))
        """int64 (episodes,), row of each episode's first frame in the columns of frames; its first action row is that minus
        the episode's number."""
        if in_memory:
            self._reader.load()

    def _open(self, verify: bool = False) -> tuple[ColumnReader, dict[str, Any]]:
        """Open what reads the columns of the file, and its meta data."""
        file = open_file(self.path)
        try:
            meta = read_meta(file)
        except UNREADABLE as error:
            file.close()
            raise damaged(self.path, "its meta data cannot be read") from error
        try:
            return ColumnReader(self.path, file, verify), meta
        except UNREADABLE as error:
            file.close()
            raise damaged(self.path, "where its columns lie cannot be read") from error

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.lengths)

    @property
    def num_frames(self) -> int:
        """Frames of all episodes together."""
        return int(self.lengths.sum()) + len(self)

    @property
    def storage(self) -> Storage:
        """How pictures are kept."""
        return self._reader.storage

    @property
    def image_size(self) -> int:
        """Height of a frame in pixels."""
        return int(self.row_shape("frames")[0])

    @property
    def action_block(self) -> int:
        """Environment actions in one recorded step."""
        return int(self.meta.get("action_block", 1))

    def recorded_steps(self, action_block: int) -> int:
        """Count the recorded steps in a model step of so many environment actions; UserError where these are no whole number."""
        if action_block % self.action_block:
            raise UserError(
                f"{self.path} was recorded in blocks of {self.action_block} actions; the action block of {action_block} must be a "
                f"multiple of {self.action_block}"
            )
        return action_block // self.action_block

    @property
    def action_size(self) -> int:
        """Numbers in one environment action."""
        return int(self.row_shape("actions")[0]) // self.action_block

    @property
    def has_actions(self) -> bool:
        """Whether actions were recorded; without, the file is a video."""
        return self.row_shape("actions")[0] > 0

    @property
    def has_outcomes(self) -> bool:
        """Whether any reward was recorded, or that an episode was terminated or truncated."""
        return not np.isnan(self.column("reward")).all() or any(self.column(name).any() for name in ("terminated", "truncated"))

    @property
    def missing_columns(self) -> list[str]:
        """Columns that the file, of an earlier schema, does not have; they read as `episode.NOT_RECORDED` says."""
        return self._reader.not_in_file

    def has_text(self, name: str) -> bool:
        """Test whether any text of a column (`captions`, `questions`, `action_texts`, ...) is not empty."""
        if name not in TEXTS:
            raise ValueError(f"no text column {name!r}; there are {', '.join(TEXTS)}")
        return self._reader.num_rows(f"{name}/bytes") > 0

    def row_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a row of a column of numbers, e.g. (H, W, 3) of `frames`."""
        return self._reader.row_shape(name)

    def episode(self, i: int) -> Episode:
        """Read the whole of episode i."""
        first, steps = self._first_row(i), int(self.lengths[i])
        frame_rows, action_rows = (first, first + steps + 1), (first - i, first - i + steps)
        columns: dict[str, Any] = {name: self.rows(name, *frame_rows) for name in FRAME_COLUMNS}
        columns |= {name: self.rows(name, *action_rows) for name in ACTION_COLUMNS}
        columns |= {name: self._texts(name, *frame_rows) for name in FRAME_TEXTS}
        columns |= {name: self._texts(name, *action_rows) for name in ACTION_TEXTS}
        return Episode(
            **columns,
            seed=int(self.rows("seed", i, i + 1)[0]),
            policy=self._texts("policy", i, i + 1)[0],
            variation=parse_json(self._texts("variation", i, i + 1)[0]),
            goal_state=self.rows("goal_state", i, i + 1)[0],
            goal_text=self.goal_text(i),
            views={camera: self.rows(f"{VIEWS}/{camera}", *frame_rows) for camera in self.cameras},
        )

    def clip(self, i: int, start: int, length: int, action_block: int = 1, texts: bool = True) -> Clip:
        """Read a window of episode i: `length` model steps of `action_block` environment steps each.

        Args:
            i: episode.
            start: environment step of the first frame; the clip must end within the episode.
            length: number of model steps t; the clip has t + 1 frames and t block actions.
            action_block: environment actions per model step, k.
            texts: read the texts of the actions too; without, the clip has empty ones.

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
        joined = {name: self._joined(name, *action_rows, in_steps) if texts else [""] * length for name in ACTION_TEXTS}
        return Clip(
            frames=self._reader.rows("frames", row, row + steps + 1, in_steps),
            actions=self.rows("actions", *action_rows).reshape(length, in_steps * self.row_shape("actions")[0]),  # (t k) a -> t (k a)
            **joined,
            start=start,
            episode=i,
        )

    def _joined(self, name: str, start: int, stop: int, in_steps: int) -> list[str]:
        """Join the texts of recorded steps into those of each model step; empty ones leave no trace."""
        texts = self._texts(name, start, stop)
        return ["; ".join(filter(None, texts[t : t + in_steps])) for t in range(0, len(texts), in_steps)]

    def dtype(self, name: str) -> np.dtype:
        """Return the type of a column of numbers or pictures."""
        return self._reader.dtype(name)

    def windows(self, name: str, rows: np.ndarray, step: int, out: np.ndarray) -> None:
        """Read several windows of a column of numbers, `frames` or `views/<camera>`.

        Args:
            name: the column; its rows are those of all episodes end to end (see `offsets`).
            rows: int64 (b,), number of the first row of each window.
            step: distance of the rows in a window.
            out: C-contiguous (b, count, *row_shape) of the column's type, to fill.
        """
        self._reader.windows(name, rows, step, out)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Read rows start <= row < stop of a column of numbers or frames, all episodes end to end."""
        return self._reader.rows(name, start, stop)

    def frame(self, i: int, t: int) -> np.ndarray:
        """Read frame t of episode i: uint8 (H, W, 3)."""
        row = self._row("frames", i, t)
        return self.rows("frames", row, row + 1)[0]

    def caption(self, i: int, t: int) -> str:
        """Read the sentence recorded with frame t of episode i."""
        return self._text("captions", i, t)

    def question(self, i: int, t: int) -> tuple[str, str]:
        """Read the question recorded with frame t of episode i, and its answer."""
        return self._text("questions", i, t), self._text("answers", i, t)

    def action_words(self, i: int, t: int) -> str:
        """Read the action that leaves frame t of episode i, in coarse words."""
        return self._text("action_words", i, t)

    def change(self, i: int, t: int) -> str:
        """Read what changed from frame t to frame t + 1 of episode i, as a sentence."""
        return self._text("changes", i, t)

    def goal_text(self, i: int) -> str:
        """Read the goal of episode i as an instruction."""
        self._first_row(i)
        return self._texts("goal_text", i, i + 1)[0]

    def view(self, i: int, camera: str) -> np.ndarray:
        """Read what one of `cameras`, the additional ones, saw in episode i: uint8 (T+1, H, W, 3)."""
        if camera not in self.cameras:
            there = ", ".join(self.cameras) or "none"
            raise UserError(f"{self.path} has no additional camera {camera!r}; there are: {there}")
        row = self._first_row(i)
        return self.rows(f"{VIEWS}/{camera}", row, row + int(self.lengths[i]) + 1)

    def frame_rows(self, episodes: Iterable[int]) -> np.ndarray:
        """Return the rows of all frames of some episodes, int64; see `frames` and `column`."""
        spans = [np.arange(self.offsets[i], self.offsets[i] + self.lengths[i] + 1) for i in episodes]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)

    def frames(self, rows: np.ndarray) -> np.ndarray:
        """Read the frames of any row numbers, in the order asked: uint8 (len(rows), H, W, 3)."""
        return self._reader.scattered("frames", np.asarray(rows, np.int64))

    def column(self, name: str) -> np.ndarray:
        """Read a whole numeric column (`features`, `state`, `actions`, ...), all episodes end to end."""
        if name not in NUMBERS:
            raise ValueError(f"no column {name!r}; there are {', '.join(NUMBERS)}")
        return self.rows(name, 0, self._reader.num_rows(name))

    def texts(self, name: str) -> list[str]:
        """Read a whole text column: `captions`, `questions`, `action_words`, `policy`, `variation` (JSON), ..."""
        if name not in TEXTS:
            raise ValueError(f"no text column {name!r}; there are {', '.join(TEXTS)}")
        return self._texts(name, 0, self._reader.num_rows(name))

    @cached_property
    def identities(self) -> list[str]:
        """A digest of each episode that stays the same in every file it is copied to; see `identity.py`."""
        return identities(self)

    def split(self, seed: int, validation: float = 0.1) -> tuple[list[int], list[int]]:
        """Split the episodes into training and validation, disjoint, the same for the same seed.

        Which they are depends on what happens in them and not on their places in the file; equal ones are on one side.

        Args:
            seed: of the choice.
            validation: share of the different episodes kept for validation; at least one is, and one is left over.
        """
        different = len(set(self.identities))
        if different < 2:
            which = "all alike; two different ones" if len(self) > 1 else "two"
            raise UserError(
                f"{self.path} has {len(self)} episode{'s' * (len(self) != 1)}, {which} are needed to keep one for validation"
            )
        held = chosen_share(self.identities, validation, seed)
        sides: tuple[list[int], list[int]] = ([], [])
        for i, name in enumerate(self.identities):
            sides[name in held].append(i)
        return sides

    def close(self) -> None:
        """Close the file; a store kept in memory stays readable."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[type, tuple[Path, bool]]:
        return EpisodeStore, (self.path, self.in_memory)

    def _first_row(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"episode {i} asked of {self.path}, which has {len(self)}")
        return int(self.offsets[i])

    def _row(self, name: str, i: int, t: int) -> int:
        """Return the row of frame t, or of action t, of episode i in a column."""
        of_actions = name in ACTION_TEXTS
        first, rows = self._first_row(i) - i * of_actions, int(self.lengths[i]) + (not of_actions)
        if not 0 <= t < rows:
            raise IndexError(f"{'action' if of_actions else 'frame'} {t} asked of episode {i} of {self.path}, which has {rows}")
        return first + t

    def _text(self, name: str, i: int, t: int) -> str:
        row = self._row(name, i, t)
        return self._texts(name, row, row + 1)[0]

    def _texts(self, name: str, start: int, stop: int) -> list[str]:
        return self._reader.texts(name, start, stop)
