"""LeRobotDataset folders made by hand as version 0.4.4 makes them, read; ours, written and read back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.counter import assert_counts, counter_episode, draw_number, read_numbers, write_counter_file
from tests.datasets.toys import make_schema_3, write_toy_file
from worldmodel.datasets.episodes.episode import not_recorded, same_episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.interop import lerobot
from worldmodel.datasets.video import VideoWriter, encode_png
from worldmodel.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TOP, WRIST = "observation.images.top", "observation.images.wrist"


def write_theirs(root: Path, rows: tuple[int, ...] = (5, 3), pictures: str = "video", fps: int = 10, **info: Any) -> None:
    """Row t of episode i shows 100 i + t and holds the action of that number; two episodes lie in one file, the others in the next."""
    kinds = {TOP: [32, 32, 3], WRIST: [16, 32, 3]}
    features: dict[str, Any] = {name: {"dtype": pictures, "shape": shape, "names": None} for name, shape in kinds.items()}
    features |= {name: {"dtype": "float32", "shape": [n], "names": None} for name, n in (("observation.state", 2), ("next.reward", 1))}
    features["action"] = {"dtype": "float32", "shape": [1], "names": ["push"]}
    features["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (root / "data" / "chunk-000").mkdir(parents=True)
    facts, first = [], 0
    for file in range((len(rows) + 1) // 2):
        columns: dict[str, list[Any]] = {}
        number = 0
        with VideoWriter(_video(root, TOP, file), fps, keyframe_every=2) as top, VideoWriter(_video(root, WRIST, file), fps) as wrist:
            for i in range(2 * file, min(2 * file + 2, len(rows))):
                facts.append(_facts(i, rows[i], first, file, number / fps))
                for t in range(rows[i]):
                    frame = draw_number(100 * i + t)
                    row = {"observation.state": [100 * i + t] * 2, "action": 100 * i + t, "next.reward": 100 * i + t + 0.25}
                    row |= {"next.success": t == rows[i] - 2, "timestamp": t / fps, "frame_index": t, "episode_index": i}
                    row |= {"index": first + t, "task_index": i % 2}
                    if pictures == "video":
                        top.add(frame)
                        wrist.add(frame[:16])
                    else:
                        row |= {
                            TOP: {"bytes": encode_png(frame), "path": None},
                            WRIST: {"bytes": encode_png(frame[:16]), "path": None},
                        }
                    for name, value in row.items():
                        columns.setdefault(name, []).append(value)
                first += rows[i]
                number += rows[i]
        pq.write_table(pa.table(columns), root / "data" / "chunk-000" / f"file-{file:03d}.parquet")
    pq.write_table(pa.Table.from_pylist(facts), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    pq.write_table(pa.table({"task_index": [0, 1], "__index_level_0__": ["lift", "drop"]}), root / "meta" / "tasks.parquet")
    paths = {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "total_episodes": len(rows)}
    paths["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    about = {"codebase_version": "v3.0", "fps": fps, "features": features} | paths | info
    (root / "meta" / "info.json").write_text(json.dumps(about))


def _video(root: Path, camera: str, file: int) -> Path:
    path = root / "videos" / camera / "chunk-000" / f"file-{file:03d}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _facts(i: int, length: int, first: int, file: int, start: float) -> dict[str, Any]:
    facts = {"episode_index": i, "length": length, "dataset_from_index": first, "dataset_to_index": first + length}
    facts |= {"data/chunk_index": 0, "data/file_index": file, "stats/action/mean": [0.0]}
    for camera in (TOP, WRIST):
        facts |= {f"videos/{camera}/{key}": value for key, value in (("chunk_index", 0), ("file_index", file))}
        facts |= {f"videos/{camera}/from_timestamp": start}
    return facts


@pytest.mark.parametrize("pictures", ["video", "image"])
def test_an_action_leads_from_its_row_to_the_next_one_and_the_last_is_left_out(tmp_path: Path, pictures: str) -> None:
    write_theirs(tmp_path, (5, 3, 4), pictures)
    read, meta = lerobot.read(tmp_path)
    episodes = list(read)
    assert len(episodes) == 3
    for i, (episode, rows) in enumerate(zip(episodes, (5, 3, 4), strict=True)):
        assert_counts(episode, rows - 1, 100 * i)
        assert episode.proprio[:, 0].tolist() == list(range(100 * i, 100 * i + rows))
        assert episode.success.tolist() == [False] * (rows - 1) + [True]  # the action of row rows - 2 was the success
        assert episode.goal_text == ("drop" if i == 1 else "lift")
        assert episode.views == {}
        assert episode.reward.tolist() == [100 * i + t + 0.25 for t in range(rows - 1)], "the last row's reward goes with its action"
        assert not episode.terminated.any() and not episode.truncated.any()
    assert meta["dropped"] == [WRIST]
    assert (meta["fps"], meta["action_names"], meta["licence"]) == (10, ["push"], "unknown")
    assert meta["source"]["format"] == "lerobot"


def test_cameras_of_other_sizes_become_views_when_all_are_resized(tmp_path: Path) -> None:
    write_theirs(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    read, meta = lerobot.read(tmp_path, size=16, fit="pad")
    episode = next(read)
    assert episode.frames.shape == episode.views["wrist"].shape == (5, 16, 16, 3)
    assert read_numbers(episode.frames) == [0, 1, 2, 3, 4]
    assert episode.views["wrist"][:, :3].max() < 30 and episode.views["wrist"][1].max() > 150  # bars above; the picture
    assert (meta["dropped"], meta["licence"]) == ([], "apache-2.0")
    read, meta = lerobot.read(tmp_path, camera=WRIST)
    assert next(read).frames.shape == (5, 16, 32, 3) and TOP in meta["dropped"]


def test_an_episode_without_a_transition_is_skipped_and_named(tmp_path: Path) -> None:
    write_theirs(tmp_path, (1, 4))
    read, meta = lerobot.read(tmp_path)
    (episode,) = read
    assert_counts(episode, 3, 100)
    assert list(meta["skipped"]) == ["episode 0"]


def test_ours_comes_back_the_same_bit_for_bit_with_png_pictures(tmp_path: Path) -> None:
    wanted = write_toy_file(tmp_path / "a.h5", (5, 3, 40))
    lerobot.write(EpisodeStore(tmp_path / "a.h5"), tmp_path / "theirs", pictures="image")
    read, meta = lerobot.read(tmp_path / "theirs")
    assert all(same_episode(a, b) for a, b in zip(wanted, read, strict=True))
    assert meta["env_id"] == "toy"


@settings(deadline=None, max_examples=5)
@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4), action_size=st.integers(0, 2), fps=st.sampled_from([5, 30, 12.5]))
def test_ours_comes_back_through_mp4(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], action_size: int, fps: float
) -> None:
    folder = tmp_path_factory.mktemp("lerobot")
    wanted = write_counter_file(folder / "a.h5", tuple(lengths), action_size=action_size)
    lerobot.write(EpisodeStore(folder / "a.h5"), folder / "theirs", fps)
    read, meta = lerobot.read(folder / "theirs")
    for i, (before, after) in enumerate(zip(wanted, read, strict=True)):
        assert_counts(after, lengths[i], 100 * i)
        assert np.abs(before.frames.astype(int) - after.frames).mean() < 3
        assert same_episode(before, type(after)(**(vars(after) | {"frames": before.frames})))
    assert meta["fps"] == fps


def test_the_tables_hold_what_lerobot_looks_for(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "a.h5", (2, 3))
    lerobot.write(EpisodeStore(tmp_path / "a.h5"), tmp_path / "b")
    data = pq.read_table(tmp_path / "b" / "data" / "chunk-000" / "file-000.parquet").to_pydict()
    assert data["action"] == [0, 1, 1, 100, 101, 102, 102]  # the last row has no action of its own: it repeats the one before
    assert data["next.reward"] == [0.1, 1.1, 0, 100.1, 101.1, 102.1, 0]
    assert data["next.done"] == [False, True, True, False, False, True, True]
    assert data["terminated"] == [False, True, False, False, False, True, False] and not any(data["next.truncated"])
    assert data["frame_index"] == [0, 1, 2, 0, 1, 2, 3] and data["index"] == list(range(7))
    assert data["episode_index"] == [0, 0, 0, 1, 1, 1, 1] and data["task_index"] == [0, 0, 0, 1, 1, 1, 1]
    assert np.allclose(data["timestamp"], [0, 0.1, 0.2, 0, 0.1, 0.2, 0.3])
    tasks = pq.read_table(tmp_path / "b" / "meta" / "tasks.parquet").to_pydict()
    assert tasks == {"task_index": [0, 1], "__index_level_0__": ["count to 2", "count to 103"]}
    facts = pq.read_table(tmp_path / "b" / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [row["dataset_from_index"] for row in facts] == [0, 3] and [row["length"] for row in facts] == [3, 4]
    assert [row["videos/observation.images.main/from_timestamp"] for row in facts] == pytest.approx([0, 0.3])
    info = json.loads((tmp_path / "b" / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["total_frames"], info["splits"]) == ("v3.0", 7, {"train": "0:2"})
    statistics = json.loads((tmp_path / "b" / "meta" / "stats.json").read_text())
    rows = np.array(data["action"])
    action = {kind: value[0] for kind, value in statistics["action"].items()}
    assert (action["min"], action["max"], action["count"]) == (0, 102, 7)
    assert action["mean"] == pytest.approx(rows.mean()) and action["std"] == pytest.approx(rows.std())
    picture = statistics["observation.images.main"]
    assert np.shape(picture["mean"]) == (3, 1, 1) and 0 < np.max(picture["max"]) <= 1


def test_done_is_told_from_truncated_where_both_are_there(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "a.h5", (2, 3))
    lerobot.write(EpisodeStore(tmp_path / "a.h5"), tmp_path / "b")
    about = tmp_path / "b" / "meta" / "info.json"
    info = json.loads(about.read_text())
    del info["features"]["terminated"]
    about.write_text(json.dumps(info))
    read, meta = lerobot.read(tmp_path / "b")
    assert [episode.terminated.tolist() for episode in read] == [[False, True], [False, False, True]] and meta["dropped"] == []
    del info["features"]["next.truncated"]
    about.write_text(json.dumps(info))
    read, meta = lerobot.read(tmp_path / "b")
    assert not any(episode.terminated.any() for episode in read) and meta["dropped"] == ["next.done"]


def test_rewards_of_some_episodes_alone_come_back_and_spoil_no_statistics(tmp_path: Path) -> None:
    episodes = [counter_episode(3), counter_episode(2, 100, **not_recorded(2))]
    write_episodes(tmp_path / "a.h5", episodes, {"env_id": "counter"})
    lerobot.write(EpisodeStore(tmp_path / "a.h5"), tmp_path / "b", pictures="image")
    assert "NaN" not in (tmp_path / "b" / "meta" / "stats.json").read_text()
    assert all(same_episode(a, b) for a, b in zip(episodes, lerobot.read(tmp_path / "b")[0], strict=True))
    make_schema_3(tmp_path / "a.h5")
    lerobot.write(EpisodeStore(tmp_path / "a.h5"), tmp_path / "c")
    features = json.loads((tmp_path / "c" / "meta" / "info.json").read_text())["features"]
    assert not {"next.reward", "next.done", "next.truncated", "terminated"} & features.keys(), "what nobody recorded is not written"
    assert all(np.isnan(episode.reward).all() for episode in lerobot.read(tmp_path / "c")[0])


def test_files_that_grow_too_large_are_followed_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldmodel.datasets.interop.lerobot_writer.DATA_MB", 0)
    monkeypatch.setattr("worldmodel.datasets.interop.lerobot_writer.VIDEO_MB", 0)
    monkeypatch.setattr("worldmodel.datasets.interop.lerobot_writer.FACTS_PER_WRITE", 2)
    monkeypatch.setattr("worldmodel.datasets.interop.lerobot_writer.FILES_PER_CHUNK", 2)
    write_counter_file(tmp_path / "a.h5", (2, 3, 4))
    lerobot.write(EpisodeStore(tmp_path / "a.h5"), tmp_path / "b")
    assert len(list((tmp_path / "b" / "data").rglob("*.parquet"))) == 3
    for i, episode in enumerate(lerobot.read(tmp_path / "b")[0]):
        assert_counts(episode, 2 + i, 100 * i)


def test_what_is_damaged_is_refused_in_one_sentence(tmp_path: Path) -> None:
    write_theirs(tmp_path / "a")
    (tmp_path / "a" / "videos" / TOP / "chunk-000" / "file-000.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="file-000.mp4 is missing or damaged"):
        list(lerobot.read(tmp_path / "a")[0])
    write_theirs(tmp_path / "b", codebase_version="v2.1")
    with pytest.raises(UserError, match="version v2.1"):
        lerobot.read(tmp_path / "b")
    with pytest.raises(UserError, match="no camera 'side'; it has"):
        write_theirs(tmp_path / "c")
        lerobot.read(tmp_path / "c", camera="side")
    (tmp_path / "c" / "data" / "chunk-000" / "file-000.parquet").unlink()
    with pytest.raises(UserError, match="no tables in data"):
        list(lerobot.read(tmp_path / "c")[0])
    with pytest.raises(UserError, match="no LeRobotDataset"):
        lerobot.read(tmp_path)


def test_damaged_tables_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for name in ("meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"):
        root = tmp_path / name.replace("/", "-")
        write_theirs(root)
        (root / name).write_bytes((root / name).read_bytes()[:-20])
        with pytest.raises(UserError, match="damaged") as error:
            list(lerobot.read(root)[0])
        assert str(root) in str(error.value) and "\n" not in str(error.value)


def test_actions_that_are_no_numbers_are_refused_with_the_episode(tmp_path: Path) -> None:
    write_theirs(tmp_path / "a")
    path = tmp_path / "a" / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path).to_pydict()
    table["action"][6] = float("nan")
    pq.write_table(pa.table(table), path)
    with pytest.raises(UserError, match=r"episode 1 is damaged or not as its format says \(action 1 is not a finite"):
        list(lerobot.read(tmp_path / "a")[0])


@pytest.mark.parametrize("place", ["../{video_key}/{file_index}.mp4", "/etc/{video_key}{file_index}.mp4"])
def test_no_video_is_read_from_outside_the_dataset(tmp_path: Path, place: str) -> None:
    write_theirs(tmp_path / "a", video_path=place)
    with pytest.raises(UserError, match="outside of the dataset"):
        list(lerobot.read(tmp_path / "a")[0])


def test_facts_of_the_format_hold_and_names_may_be_nested(tmp_path: Path) -> None:
    write_theirs(tmp_path / "a", fps=30, worldmodel={"fps": 10, "env_id": "kept", "source": {}, "skipped": {"x": ""}})
    info = json.loads((tmp_path / "a" / "meta" / "info.json").read_text())
    info["features"]["action"]["names"] = {"motors": ["push"]}
    (tmp_path / "a" / "meta" / "info.json").write_text(json.dumps(info))
    _, meta = lerobot.read(tmp_path / "a")
    assert (meta["fps"], meta["env_id"], meta["action_names"]) == (30, "kept", ["push"])
    assert meta["source"]["format"] == "lerobot" and meta["skipped"] == {}


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_counter_file(tmp_path / "a.h5", (3, 5))
    store = EpisodeStore(tmp_path / "a.h5")
    whole = store.episode

    def broken(i: int) -> Any:
        if i == 1:
            raise OSError(28, "No space left on device")
        return whole(i)

    monkeypatch.setattr(store, "episode", broken)
    with pytest.raises(UserError, match="No space left"):
        lerobot.write(store, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    monkeypatch.setattr(store, "episode", whole)
    lerobot.write(store, tmp_path / "b")
    with pytest.raises(UserError, match="exists already"):
        lerobot.write(store, tmp_path / "b")
