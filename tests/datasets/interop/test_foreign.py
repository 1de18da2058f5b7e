"""What all foreign formats share: layouts of pictures, discrete actions, and the numbers of episodes in messages."""

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.datasets.counter import draw_number, read_numbers
from tests.datasets.interop import test_lerobot, test_minari, test_ogbench, test_stable_worldmodel
from tests.datasets.refusals import one_line
from worldmodel.datasets.interop import lerobot, minari, ogbench, stable_worldmodel
from worldmodel.datasets.interop.foreign import as_frames, as_rows
from worldmodel.errors import UserError


def numbers(count: int, first: int = 0) -> np.ndarray:
    return np.stack([draw_number(first + t) for t in range(count)])


def stacked(count: int, width: int) -> np.ndarray:
    """Rows of the last `width` grey frames, the first of them repeated at the start: uint8 (count, 32, 32, width)."""
    grey = numbers(count)[..., 0]
    return np.stack([np.stack([grey[max(t - k, 0)] for k in reversed(range(width))], axis=-1) for t in range(count)])


@pytest.mark.parametrize("width", [3, 4])
@pytest.mark.parametrize("first", [True, False], ids=["channels first", "channels last"])
def test_of_stacked_grey_frames_the_newest_is_taken(width: int, first: bool) -> None:
    rows = stacked(9, width)
    frames = as_frames(np.moveaxis(rows, -1, 1) if first else rows)
    assert frames.shape == (9, 32, 32, 3) and read_numbers(frames) == list(range(9))


def test_colour_is_no_stack() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (5, 16, 20, 3), np.uint8)
    opaque = np.concatenate([colour, np.full((5, 16, 20, 1), 255, np.uint8)], axis=-1)
    for pictures in (colour, np.moveaxis(colour, -1, 1), opaque, np.moveaxis(opaque, -1, 1)):
        assert np.array_equal(as_frames(pictures), colour)
    still = np.repeat(colour[:1], 5, axis=0)
    assert np.array_equal(as_frames(still), still)
    assert np.array_equal(as_frames(colour[..., :1]), np.repeat(colour[..., :1], 3, axis=-1))


def test_four_channels_that_are_neither_are_refused() -> None:
    with pytest.raises(ValueError, match="four channels, which are neither stacked frames nor color"):
        as_frames(np.random.default_rng(0).integers(0, 256, (5, 4, 16, 20), np.uint8))


def test_complex_numbers_and_words_are_no_numbers() -> None:
    for values in (np.array([1 + 2j]), np.array(["1"]), np.array([None])):
        with pytest.raises(ValueError, match="where numbers belong"):
            as_rows(values, np.float32)


def test_a_minari_data_set_of_stacked_grey_frames_shows_what_happened(tmp_path: Path) -> None:
    test_minari.write_theirs(tmp_path / "a-v0", lambda i: {"observations": np.moveaxis(stacked((5, 3)[i], 4), -1, 1)})
    assert [read_numbers(episode.frames) for episode in minari.read(tmp_path / "a-v0")[0]] == [[0, 1, 2, 3, 4], [0, 1, 2]]


def space(kind: str, **facts: Any) -> dict[str, Any]:
    return {"type": kind, "dtype": "int64"} | facts


DISCRETE = space("Discrete", n=3, start=5)
NESTED = {
    "a dict": (
        {"type": "Dict", "subspaces": {"gear": DISCRETE, "push": test_minari.BOX}},
        {"actions/gear": [5, 7, 6, 5], "actions/push": [[1, 2], [3, 4], [5, 6], [7, 8]]},
        [[1, 0, 0, 1, 2], [0, 0, 1, 3, 4], [0, 1, 0, 5, 6], [1, 0, 0, 7, 8]],
    ),
    "a tuple in a dict": (
        {"type": "Dict", "subspaces": {"x": {"type": "Tuple", "subspaces": [test_minari.BOX, DISCRETE]}}},
        {"actions/x/_index_0": [[1, 2], [3, 4], [5, 6], [7, 8]], "actions/x/_index_1": [5, 7, 6, 5]},
        [[1, 2, 1, 0, 0], [3, 4, 0, 0, 1], [5, 6, 0, 1, 0], [7, 8, 1, 0, 0]],
    ),
    "several choices": (
        space("MultiDiscrete", nvec=[2, 3]),
        {"actions": [[0, 2], [1, 0], [1, 1], [0, 0]]},
        [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [1, 0, 1, 0, 0]],
    ),
}


@pytest.mark.parametrize(("actions", "columns", "expected"), NESTED.values(), ids=NESTED)
def test_nested_discrete_actions_are_one_hot(
    tmp_path: Path, actions: dict[str, Any], columns: dict[str, Any], expected: list[list[int]]
) -> None:
    folder = tmp_path / "a-v0" / "data"
    folder.mkdir(parents=True)
    about = {"total_episodes": 1, "data_format": "hdf5", "action_space": json.dumps(actions)}
    (folder / "metadata.json").write_text(json.dumps(about))
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for name, values in (columns | {"observations": numbers(5)}).items():
            file[f"episode_0/{name}"] = np.array(values)
    read, meta = minari.read(tmp_path / "a-v0")
    assert next(read).actions.tolist() == expected and len(meta["action_names"]) == 5


def test_whole_numbers_in_a_column_of_one_are_one_hot_in_every_format(tmp_path: Path) -> None:
    column = np.array([0, 3, 1, 2, 0, 1, 1, 2])[:, None]
    test_stable_worldmodel.write_theirs(tmp_path / "a.h5", action=column)
    assert next(stable_worldmodel.read(tmp_path / "a.h5")[0]).actions.argmax(1).tolist() == [0, 3, 1, 2]
    np.savez(tmp_path / "a.npz", **test_ogbench.published(actions=column))
    assert next(ogbench.read(tmp_path / "a.npz")[0]).actions.argmax(1).tolist() == [0, 3, 1, 2]
    test_lerobot.write_theirs(tmp_path / "robot", (4, 3))
    _edit_lerobot(tmp_path / "robot", lambda rows: [int(row) % 100 for row in rows])
    read, meta = lerobot.read(tmp_path / "robot")
    assert [episode.actions.tolist() for episode in read] == [np.eye(4)[:3].tolist(), np.eye(4)[:2].tolist()]
    assert meta["action_names"] == ["a0", "a1", "a2", "a3"]


def _edit_lerobot(root: Path, change: Any) -> None:
    """Makes whole numbers of the actions of a data set."""
    parquet = pytest.importorskip("pyarrow.parquet")
    for file in sorted(root.glob("data/*/*.parquet")):
        table = parquet.read_table(file)
        place = table.column_names.index("action")
        parquet.write_table(table.set_column(place, "action", [change(table["action"].to_pylist())]), file)
    about = json.loads((root / "meta" / "info.json").read_text())
    about["features"]["action"]["dtype"] = "int64"
    (root / "meta" / "info.json").write_text(json.dumps(about))


def _stable_worldmodel(folder: Path) -> Path:
    action = np.zeros((16, 2), np.float32)
    action[9] = np.nan  # the third episode's
    test_stable_worldmodel.write_theirs(folder / "a.h5", (6, 1, 9), action=action)
    return folder / "a.h5"


def _ogbench(folder: Path) -> Path:
    action = np.zeros((16, 2), np.float32)
    action[9] = np.nan
    ends = np.isin(np.arange(16), [5, 6, 15]).astype(np.float32)
    np.savez(folder / "a.npz", observations=numbers(16), actions=action, terminals=ends)
    return folder / "a.npz"


def _minari(folder: Path) -> Path:
    test_minari.write_theirs(folder / "a-v0", lambda i: {"observations": numbers((5, 3)[i])}, total_episodes=3)
    with h5py.File(folder / "a-v0" / "data" / "main_data.hdf5", "a") as file:
        file.move("episode_1", "episode_2")
        file["episode_2/actions"][1] = np.nan
        file["episode_1/observations"], file["episode_1/actions"] = numbers(1), np.zeros((0, 2), np.float32)
    return folder / "a-v0"


def _lerobot(folder: Path) -> Path:
    test_lerobot.write_theirs(folder / "a", (4, 1, 5))
    parquet = pytest.importorskip("pyarrow.parquet")
    file = folder / "a" / "data" / "chunk-000" / "file-001.parquet"
    table = parquet.read_table(file)
    place = table.column_names.index("action")
    parquet.write_table(table.set_column(place, "action", [[0.0, float("nan"), 0.0, 0.0, 0.0]]), file)
    return folder / "a"


@pytest.mark.parametrize("write", [_stable_worldmodel, _ogbench, _minari, _lerobot])
def test_a_message_numbers_the_episode_as_its_file_does_though_one_was_left_out(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path)
    module = {"_stable_worldmodel": stable_worldmodel, "_ogbench": ogbench, "_minari": minari, "_lerobot": lerobot}[write.__name__]
    with pytest.raises(UserError) as error:
        list(module.read(path)[0])
    assert "episode 2 is damaged or not as its format says (action " in one_line(error, path)


@pytest.mark.parametrize("kind", ["EPS", "PPM", "PCX", "TGA"])
def test_a_picture_of_a_format_that_is_not_meant_is_not_opened_whatever_its_name(tmp_path: Path, kind: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    content = io.BytesIO()
    Image.fromarray(draw_number(1)).save(content, kind)
    test_lerobot.write_theirs(tmp_path / "robot", (4, 3), "image")
    file = tmp_path / "robot" / "data" / "chunk-000" / "file-000.parquet"
    table = parquet.read_table(file)
    rows = table[test_lerobot.TOP].to_pylist()
    rows[2]["bytes"] = content.getvalue()
    parquet.write_table(table.set_column(table.column_names.index(test_lerobot.TOP), test_lerobot.TOP, [rows]), file)
    with pytest.raises(UserError, match="a picture within the tables of the dataset cannot be decoded"):
        list(lerobot.read(tmp_path / "robot")[0])


@pytest.mark.parametrize("kind", ["lerobot", "minari"])
def test_names_in_other_alphabets_are_read_whatever_the_machine_takes_for_text(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "lerobot":
        test_lerobot.write_theirs(tmp_path / "a")
        path = tmp_path / "a" / "meta" / "info.json"
    else:
        test_minari.write_theirs(tmp_path / "a", lambda i: {"observations": numbers((5, 3)[i])}, dataset_id="push")
        path = tmp_path / "a" / "data" / "metadata.json"
    about = path.read_text(encoding="utf-8").replace("push", "Stoß 推")
    path.write_text(about, encoding="utf-8")
    monkeypatch.setattr(io, "text_encoding", lambda encoding, stacklevel=2: encoding or "latin-1")
    _, meta = (lerobot if kind == "lerobot" else minari).read(tmp_path / "a")
    assert "Stoß 推" in (meta["action_names"][0], meta["env_id"])
