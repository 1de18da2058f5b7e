import functools
import tempfile
from pathlib import Path

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from tests.datasets.toys import make_episode
from worldmodel.datasets.episodes.episode import Episode, same_episode
from worldmodel.datasets.episodes.integrity import check, repair, repaired_path
from worldmodel.datasets.episodes.schema import STORAGES
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.verified_reader import VerifiedStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError

KINDS = [(storage, layout) for storage in STORAGES for layout in ("few", "many", "views", "bare")]


@functools.cache
def toy(storage: str, layout: str) -> tuple[bytes, tuple[Episode, ...]]:
    """The bytes of a file, and its episodes as they are read from it (JPEG is lossy)."""
    episodes = {
        "few": [make_episode(i, length) for i, length in enumerate((5, 3, 9))],
        "many": [make_episode(i, 1 + i % 30, 8) for i in range(40)],
        "views": [make_episode(i, 6, views={"side": make_episode(99 + i, 6).frames}) for i in range(4)],
        "bare": [bare_episode(i) for i in range(4)],
    }[layout]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toy.h5"
        write_episodes(path, episodes, {"env_id": "toy", "seed": 0, "note": "x" * 300}, storage)
        with EpisodeStore(path) as store:
            return path.read_bytes(), tuple(store.episode(i) for i in range(len(store)))


def bare_episode(index: int) -> Episode:
    """Video without actions, as other formats have it."""
    empty = {"proprio": np.zeros((5, 0), np.float32), "state": np.zeros((5, 0)), "features": np.zeros((5, 0), np.float32)}
    texts = {name: [""] * (5 if name in ("captions", "questions", "answers") else 4) for name in TEXT_FIELDS}
    return make_episode(index, 4, **empty, **texts, actions=np.zeros((4, 0), np.float32), goal_state=np.zeros(0), goal_text="")


TEXT_FIELDS = ("captions", "questions", "answers", "action_texts", "action_words", "changes")


def read_all(path: Path) -> list[Episode]:
    """Every episode of a file, its checksums verified."""
    with VerifiedStore(path) as store:
        return [store.episode(i) for i in range(len(store))]


def saves_only_originals(path: Path, episodes: tuple[Episode, ...]) -> int:
    """Repairs a file and checks what comes out; returns how many episodes that is."""
    before = path.read_bytes()
    out = repaired_path(path)
    try:
        count = repair(path)
    except UserError as error:
        assert "can be saved: " in str(error) and str(path) in str(error)
        assert not out.exists() and not list(path.parent.glob("*.tmp"))
        count = 0
    else:
        saved = read_all(out)
        with EpisodeStore(out) as store:
            which = store.meta["repaired_from"]["episodes"]
            assert store.meta["env_id"] == "toy"
        assert len(saved) == len(which) == count
        assert all(same_episode(episode, episodes[i]) for i, episode in zip(which, saved, strict=True))
        assert check(out).whole
        out.unlink()
    assert path.read_bytes() == before, "the damaged file is not touched"
    return count


@pytest.mark.parametrize(("storage", "layout"), KINDS)
def test_a_whole_file_is_whole(storage: str, layout: str, tmp_path: Path) -> None:
    content, episodes = toy(storage, layout)
    path = tmp_path / "toy.h5"
    path.write_bytes(content)
    report = check(path)
    assert (report.whole, report.episodes, report.problem) == (True, len(episodes), None)
    assert saves_only_originals(path, episodes) == len(episodes)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_is_refused_and_gives_its_whole_episodes(kind: tuple[str, str], share: float) -> None:
    content, episodes = toy(*kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.h5"
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(UserError, match="cut.h5 --repair` saves the whole episodes"):
            EpisodeStore(path)
        report = check(path)
        assert not report.whole and report.problem is not None and "--repair" in report.problem
        saves_only_originals(path, episodes)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4), st.integers(1, 255))
def test_flipped_bytes_are_noticed_or_harmless(kind: tuple[str, str], shares: list[float], flip: int) -> None:
    content, episodes = toy(*kind)
    damaged = bytearray(content)
    for share in shares:
        damaged[int(share * len(content))] ^= flip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flipped.h5"
        path.write_bytes(damaged)
        report = check(path)
        try:
            read = read_all(path)
        except ValueError:
            assert not report.whole
        else:
            assert report.whole and len(read) == len(episodes) and all(map(same_episode, read, episodes))
        assert report.whole == (report.problem is None)
        saves_only_originals(path, episodes)


@pytest.mark.parametrize("storage", STORAGES)
def test_half_of_a_file_gives_episodes_of_its_first_half(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "cut.h5"
    write_episodes(path, [make_episode(i, 40) for i in range(200)], {"env_id": "toy"}, storage)
    with EpisodeStore(path) as store:
        originals = tuple(store.episode(i) for i in range(200))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert saves_only_originals(path, originals) >= 30


@pytest.mark.parametrize("storage", STORAGES)
def test_a_small_file_of_which_the_last_pictures_are_gone_gives_its_first_episodes(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "cut.h5"
    noise = np.random.default_rng(0).integers(0, 256, (12, 21, 64, 64, 3), np.uint8)
    write_episodes(path, [make_episode(i, 20, frames=noise[i]) for i in range(12)], {"env_id": "toy"}, storage)
    with EpisodeStore(path) as store:
        originals = tuple(store.episode(i) for i in range(12))
    path.write_bytes(path.read_bytes()[: int(0.8 * path.stat().st_size)])
    assert saves_only_originals(path, originals) >= 4


def test_a_repaired_file_does_not_pass_for_the_whole_collection(tmp_path: Path) -> None:
    path = tmp_path / "toy.h5"
    write_episodes(path, [make_episode(0)], {"env_id": "toy", "recipe": {"episodes": 1}, "coverage": {"episodes": 1}})
    repair(path)
    with EpisodeStore(repaired_path(path)) as store:
        assert "recipe" not in store.meta and "coverage" not in store.meta
        assert store.meta["repaired_from"]["recipe"] == {"episodes": 1}


@pytest.mark.parametrize("storage", STORAGES)
def test_one_damaged_chunk_costs_its_episodes_alone(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "hole.h5"
    write_episodes(path, [make_episode(i, 40, 32) for i in range(20)], {"env_id": "toy"}, storage)
    with VerifiedStore(path) as store:
        episodes = tuple(store.episode(i) for i in range(20))
    with h5py.File(path, "r") as file:
        chunk = file["frames/bytes" if storage == "jpeg" else "frames"].id.get_chunk_info(1)
        place = chunk.byte_offset + chunk.size // 2
    content = path.read_bytes()
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    report = check(path)
    assert not report.whole and report.episodes == 20
    assert "column frames" in str(report.problem) and "first in episode" in str(report.problem)
    assert 5 <= saves_only_originals(path, episodes) < 20


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "does not begin as HDF5"), (b"a,b\n1,2\n", "does not begin"), (b"\x89HDF\r\n\x1a\n" + bytes(90), "beginning is damaged")],
)
def test_nothing_to_save(content: bytes, words: str, tmp_path: Path) -> None:
    path = _written(tmp_path / "x.h5", content)
    with pytest.raises(UserError, match=words):
        repair(path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.h5"]


def test_files_that_are_not_there_or_in_the_way(tmp_path: Path) -> None:
    for call in (check, repair):
        for path, words in ((tmp_path / "nowhere.h5", "no such file"), (tmp_path, "is a folder")):
            with pytest.raises(UserError, match=words):
                call(path)
    path = _written(tmp_path / "toy.h5", toy("lossless", "few")[0])
    out = _written(tmp_path / "out.h5", b"mine")
    with pytest.raises(UserError, match="exists already"):
        repair(path, out)
    assert out.read_bytes() == b"mine"
