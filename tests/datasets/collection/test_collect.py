import fcntl
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, is_running, wait_for
from worldmodel.datasets.atomic import temporary_beside
from worldmodel.datasets.collection import collect as collecting
from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.episode_shards import PATTERN, shard_path
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError

EPISODES = 30
COMMAND = """
import signal
import sys
import time
from pathlib import Path
from worldmodel.datasets.collection import collect as collecting
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.errors import UserError

def add_and_hang(merger, episode):
    add(merger, episode)
    if len(merger._there) == hang_after:
        time.sleep(600)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell begins with Ctrl-C ignored
out, (workers, episodes, hang_after) = Path(sys.argv[1]), map(int, sys.argv[2:])
add, collecting._Merger.add = collecting._Merger.add, add_and_hang
try:
    collecting.collect(CollectConfig(out=out, episodes=episodes, image_size=32, max_steps=15, workers=workers))
except UserError as error:
    sys.exit(str(error))
except KeyboardInterrupt:
    sys.exit("interrupted")
"""


def small(out: Path, **changes: object) -> CollectConfig:
    config = CollectConfig(out=out, episodes=EPISODES, image_size=32, max_steps=15, workers=2)
    return replace(config, **changes)  # type: ignore[arg-type]


def parts_of(out: Path) -> list[Path]:
    return sorted(out.with_name(out.name + ".parts").glob(PATTERN))


def start(root: Path, out: Path, workers: int, hang_after: int = 0, **options: object) -> subprocess.Popen[str]:
    """A collection in a process of its own, which hangs once it knows of so many episodes: its workers then soon wait for it."""
    command = [sys.executable, "-c", COMMAND, str(out), str(workers), str(EPISODES), str(hang_after)]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]


def wait_for_parts(process: subprocess.Popen[str], out: Path, number: int) -> None:
    wait_for(lambda: len(parts_of(out)) >= number, f"{number} episodes", lambda: process.poll() is None)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """The file that one worker makes in one go."""
    out = tmp_path_factory.mktemp("uninterrupted") / "a.h5"
    result = collect(small(out, workers=1))
    assert (result.episodes, result.new_episodes, result.frames) == (EPISODES, EPISODES, EPISODES * 16)
    assert [path.name for path in out.parent.iterdir()] == ["a.h5"]
    yield out.read_bytes()


def test_killed_collection_goes_on_to_the_same_bytes(
    uninterrupted: bytes, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.h5"
    process = start(root, out, workers=3, hang_after=3)
    wait_for_parts(process, out, 3)
    workers = workers_of(process)
    process.kill()
    _, errors = process.communicate()
    assert "Traceback" not in errors  # of workers that have nobody to report to
    assert len(workers) == 3
    wait_for(lambda: not any(map(is_running, workers)), "the workers, which end with their parent")
    finished = parts_of(out)
    assert not out.exists() and 3 <= len(finished) < EPISODES

    finished[0].write_bytes(finished[0].read_bytes()[:-1])  # as a power cut may leave it: recorded again
    kept = {path: path.stat().st_mtime_ns for path in finished[1:]}
    leftover = temporary_beside(finished[0])
    leftover.write_bytes(b"half a part")
    remove, found = collecting._remove, dict[Path, int]()

    def look_and_remove(folder: Path) -> None:
        found.update((path, path.stat().st_mtime_ns) for path in folder.glob("*"))
        remove(folder)

    monkeypatch.setattr(collecting, "_remove", look_and_remove)
    assert collect(small(out)).new_episodes == EPISODES - len(kept)
    assert kept.items() <= found.items()
    assert out.read_bytes() == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_interrupted_collection_keeps_what_is_finished(tmp_path: Path, root: Path) -> None:
    out = tmp_path / "a.h5"
    process = start(root, out, workers=1, hang_after=2, start_new_session=True)
    wait_for_parts(process, out, 2)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does: everybody gets it
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "interrupted" in errors and "Traceback" not in errors
    assert not out.exists() and len(parts_of(out)) >= 2


def test_ctrl_c_while_the_workers_start_is_quiet(tmp_path: Path, root: Path) -> None:
    process = start(root, tmp_path / "a.h5", workers=2, start_new_session=True)
    wait_for(lambda: len(workers_of(process)) == 2, "two workers", lambda: process.poll() is None)
    for worker in workers_of(process):
        wait_for(lambda worker=worker: "numpy" in Path(f"/proc/{worker}/maps").read_text(), "imports")  # type: ignore[misc]
        os.kill(worker, signal.SIGSTOP)  # so that it is still at it when the signal comes
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGCONT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and errors == "interrupted\n"
    assert list(tmp_path.iterdir()) == []


def on_second(act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Act when the collection learns of its second episode: its workers have others in hand and cannot get far without it."""
    add, added = collecting._Merger.add, list[int]()

    def counted(merger: collecting._Merger, episode: int) -> None:
        added.append(episode)
        if len(added) == 2:
            act()
        add(merger, episode)

    monkeypatch.setattr(collecting._Merger, "add", counted)


def test_killed_worker_is_one_sentence(uninterrupted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.h5"

    def kill_one() -> None:
        (worker,) = (process for process in multiprocessing.active_children() if process.name == "collect-1")
        worker.kill()

    on_second(kill_one, monkeypatch)
    with pytest.raises(UserError, match="worker collect-1 ended with exit code -9 .* the same command goes on"):
        collect(small(out))
    assert not out.exists() and 2 <= len(parts_of(out)) < EPISODES
    assert not multiprocessing.active_children()
    monkeypatch.undo()
    result = collect(small(out))
    assert out.read_bytes() == uninterrupted and 0 < result.new_episodes < EPISODES


def test_full_disk_keeps_finished_episodes(uninterrupted: bytes, tmp_path: Path, root: Path) -> None:
    """A limit on the size of files stands for the full disk: the same error from the same system call."""
    out = tmp_path / "a.h5"

    def run(room: int) -> str:
        limit = resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY)
        process = start(root, out, workers=1, preexec_fn=lambda: resource.setrlimit(*limit))
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1 and "Traceback" not in errors, errors
        return errors.strip().splitlines()[-1]

    assert run(3000) == f"{out}.parts: File too large; finished episodes are kept, make room and run the same command"
    assert not parts_of(out)
    assert run(40_000) == f"cannot write {out}: File too large; make room and try again"
    assert len(parts_of(out)) == EPISODES and not out.exists()
    assert collect(small(out)).new_episodes == 0
    assert out.read_bytes() == uninterrupted


def test_finished_file_is_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    config = small(out, episodes=2, workers=1)
    collect(config)
    content, modified = out.read_bytes(), out.stat().st_mtime_ns
    result = collect(replace(config, workers=5))
    assert (result.episodes, result.frames, result.new_episodes) == (2, 32, 0)
    with pytest.raises(UserError, match=r"a.h5 was collected with episodes=2, seed=0, not episodes=3, seed=1"):
        collect(replace(config, seed=1, episodes=3))
    with EpisodeStore(out) as store:
        assert store.meta["env_id"] == "worldmodel/TwoRoom-v0" and store.meta["seed"] == 0
        assert len(store.meta["feature_names"]) == store.column("features").shape[1]
        assert store.meta["coverage"] == result.coverage and result.coverage["frames"] == 32
        assert store.meta["action_names"] == ["dx", "dy"] and store.meta["restorable"] is True
    assert (out.read_bytes(), out.stat().st_mtime_ns) == (content, modified)


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    out.write_text("a diary")
    with pytest.raises(UserError, match="a.h5 is truncated, damaged or not HDF5"):
        collect(small(out))
    assert out.read_text() == "a diary"


def test_parts_of_other_arguments_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    folder = tmp_path / "a.h5.parts"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(small(out, noise=0.25).recipe()))
    shard_path(folder, 0).write_text("a part")
    with pytest.raises(UserError, match=r"a.h5.parts was collected with noise=0.25, not noise=0.5"):
        collect(small(out))
    assert shard_path(folder, 0).read_text() == "a part"


@pytest.mark.parametrize("about", ['{"env_id": "worldmodel/TwoRoom-v0", "driven": true}', "[1]", "half of"])
def test_parts_of_another_program_are_left_alone(about: str, tmp_path: Path) -> None:
    folder = tmp_path / "a.h5.parts"
    folder.mkdir()
    (folder / "config.json").write_text(about)
    shard_path(folder, 0).write_text("a part")
    with pytest.raises(UserError, match="a.h5.parts was not made by `worldmodel collect`"):
        collect(small(tmp_path / "a.h5"))
    assert shard_path(folder, 0).read_text() == "a part"


def test_parts_that_a_kill_left_beside_the_finished_file_are_removed(tmp_path: Path) -> None:
    config = small(tmp_path / "a.h5", episodes=2, workers=1)
    collect(config)
    folder = tmp_path / "a.h5.parts"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.recipe() | {"seed": 1}))
    shard_path(folder, 1).write_text("a part of another collection")
    assert collect(config).new_episodes == 0 and shard_path(folder, 1).exists()
    (folder / "config.json").write_text(json.dumps(config.recipe()))
    assert collect(config).new_episodes == 0 and not folder.exists()


def test_parts_without_an_episode_do_not_bind(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    folder = tmp_path / "a.h5.parts"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(small(out, noise=0.25).recipe()))
    assert collect(small(out, episodes=1, workers=1)).episodes == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_two_collections_of_one_file_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    folder = tmp_path / "a.h5.parts"
    folder.mkdir()
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="in use by another process"):
            collect(small(out))
    assert folder.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env": "worldmodel/TwoRooms-v0"}, "TwoRoom-v0"),
        ({"variation": ("disc.colour",)}, "disc.colour"),
        ({"cameras": ("back",)}, "unknown camera 'back': this task has top, tilted"),
        (
            {"start_timeout": 0.05},
            "no first frame of worldmodel/TwoRoom-v0 within 0.05 s, a worker hangs while starting",
        ),
    ],
)
def test_a_start_that_fails_leaves_nothing(changes: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        collect(small(tmp_path / "a.h5", **changes))
    assert list(tmp_path.iterdir()) == []
    assert not multiprocessing.active_children()


def test_no_place_to_write_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        collect(small(tmp_path / "file" / "a.h5"))


def test_any_number_of_workers_gives_the_same_file_of_blocks_and_cameras(tmp_path: Path) -> None:
    changes: dict = dict(episodes=4, max_steps=6, action_block=3, cameras=("tilted",), policies={"play": 1, "noisy": 1})
    for workers in (1, 3):
        collect(small(tmp_path / f"{workers}.h5", workers=workers, **changes))
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "3.h5").read_bytes()
    with EpisodeStore(tmp_path / "1.h5") as store:
        assert (store.meta["action_block"], store.meta["camera"], store.meta["cameras"]) == (3, "top", ["tilted"])
        assert store.cameras == ["tilted"] and store.lengths.tolist() == [2] * 4


def test_a_policy_that_does_not_fit_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "diary.zip").write_text("dear diary")
    with pytest.raises(UserError, match="diary.zip is damaged or not a model"):
        collect(small(tmp_path / "a.h5", workers=1, policies={"random": 1, f"sb3:{tmp_path / 'in' / 'diary.zip'}": 1}))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
