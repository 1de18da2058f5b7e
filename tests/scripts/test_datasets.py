"""The verb `datasets`: what each subcommand writes and says, and one sentence for every mistake."""

import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.datasets.toys import make_episode
from worldmodel.datasets.episodes.episode import same_episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.scripts.cli import run

Output = pytest.CaptureFixture[str]
SUBCOMMANDS = ("info", "check", "preview", "card", "merge", "split", "convert", "fetch", "mix")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    episodes = [make_episode(i, 20) for i in range(40)]
    write_episodes(tmp_path / "toy.h5", episodes, {"env_id": "toy", "seed": 0, "feature_names": ["x", "y"]})
    return tmp_path / "toy.h5"


def said(output: Output, *flags: object) -> str:
    """What a subcommand that succeeds prints."""
    output.readouterr()
    assert run(["datasets", *map(str, flags)]) == 0, output.readouterr().err
    return output.readouterr().out


def refused(output: Output, *flags: object) -> str:
    """The one sentence of a subcommand that fails."""
    output.readouterr()
    assert run(["datasets", *map(str, flags)]) == 2
    err = output.readouterr().err
    assert err.startswith("worldmodel datasets: error: ") and err.count("\n") == 1, err
    return err


def test_the_help_lists_every_subcommand_with_a_sentence(capsys: Output) -> None:
    with pytest.raises(SystemExit):
        run(["datasets", "--help"])
    text = capsys.readouterr().out
    for name in SUBCOMMANDS:
        assert re.search(rf"^  {name} +[A-Z].+(\n {{8,}}.+)*\.$", text, re.M), name
    for name in SUBCOMMANDS:
        with pytest.raises(SystemExit):
            run(["datasets", name, "--help"])
        assert f"usage: worldmodel datasets {name}" in capsys.readouterr().out


def test_info_preview_card(path: Path, capsys: Output) -> None:
    assert "40 of 20 actions" in said(capsys, "info", path)
    assert f"wrote {path.with_suffix('.png')}" in said(capsys, "preview", path)
    film = path.with_name("film.mp4")
    assert f"wrote {film}" in said(capsys, "preview", path, "--out", film)
    assert f"wrote {path.with_suffix('.md')}" in said(capsys, "card", path)
    assert all(file.stat().st_size > 500 for file in (path.with_suffix(".png"), film, path.with_suffix(".md")))


def test_split_then_merge(path: Path, capsys: Output) -> None:
    folder, whole = path.with_name("parts"), path.with_name("whole.h5")
    text = said(capsys, "split", path, "--shares", "0.5", "0.25", "0.25", "--out", folder)
    assert f"wrote {folder / 'train.h5'}: 20 episodes, 420 frames" in text and "next: worldmodel codec" in text
    parts = [folder / f"{part}.h5" for part in ("train", "validation", "test")]
    assert f"wrote {whole}: 40 episodes" in said(capsys, "merge", *parts, "--out", whole)
    with EpisodeStore(whole) as store:
        found = {store.episode(i).seed for i in range(len(store))}
    assert found == set(range(1000, 1040))


def test_check_and_repair(path: Path, capsys: Output) -> None:
    assert said(capsys, "check", path) == f"{path}: whole, 40 episodes\n"
    cut = path.with_name("cut.h5")
    cut.write_bytes(path.read_bytes()[:-2000])
    for command in (("info",), ("check",), ("card",), ("preview",)):
        assert f"`worldmodel datasets check {cut} --repair` saves the whole episodes" in refused(capsys, *command, cut)
    with h5py.File(path) as file:  # cut off so much that the last episodes lose texts and frames, and the first ones nothing
        needed = [file["action_texts/bytes"].id.get_chunk_info(0), file["frames"].id.get_chunk_info(40)]
    content = path.read_bytes()[: max(chunk.byte_offset + chunk.size for chunk in needed)]
    cut.write_bytes(content)
    out = path.with_name("cut.repaired.h5")
    text = said(capsys, "check", cut, path, "--repair")
    assert f"wrote {out}" in text and f"{path}: whole" in text
    assert cut.read_bytes() == content
    with EpisodeStore(out) as store:
        assert 0 < len(store) < 40 and same_episode(store.episode(0), make_episode(0, 20))
    both = refused(capsys, "check", cut, path, cut)
    assert both.count("--repair") == 2
    hopeless = path.with_name("hopeless.h5")
    hopeless.touch()
    out.unlink()
    assert "no episode of" in refused(capsys, "check", hopeless, cut, "--repair") and out.exists(), "one does not stop the others"


def damaged_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no episode files, and what is said of each."""
    (folder / "folder").mkdir()
    (folder / "words.h5").write_text("a,b\n1,2\n")
    (folder / "empty.h5").touch()
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["frames"] = np.zeros((4, 8, 8, 3), np.uint8)
    return {
        "missing": (folder / "nowhere.h5", "no such file"),
        "folder": (folder / "folder", "is a folder"),
        "text": (folder / "words.h5", "truncated, damaged or not HDF5"),
        "empty": (folder / "empty.h5", "truncated, damaged or not HDF5"),
        "foreign": (folder / "foreign.h5", "HDF5 of another program"),
    }


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "foreign"])
def test_files_that_cannot_be_read(kind: str, path: Path, tmp_path: Path, capsys: Output) -> None:
    bad, words = damaged_files(tmp_path)[kind]
    before = sorted(tmp_path.iterdir())
    for flags in (["info"], ["check"], ["preview"], ["card"], ["merge", path], ["split", "--out", tmp_path / "parts"]):
        out = ["--out", tmp_path / "out.h5"] if flags[0] == "merge" else []
        error = refused(capsys, *flags, bad, *out)
        assert str(bad) in error and words in error, (flags, error)
    assert str(bad) in refused(capsys, "check", bad, "--repair")
    assert sorted(tmp_path.iterdir()) == before


def test_places_that_cannot_be_written(path: Path, capsys: Output) -> None:
    file, other = path.with_name("file"), path.with_name("other.h5")
    file.touch()
    other.write_bytes(path.read_bytes())
    for flags in (
        ["preview", path, "--out", file / "x.png"],
        ["preview", path, "--out", file / "x.mp4"],
        ["split", path, "--out", file],
        ["split", path, "--out", file / "parts"],
        ["convert", path, file / "x.npz"],
        ["merge", path, other, "--out", file / "x.h5"],
    ):
        assert str(file) in refused(capsys, *flags)
    assert file.read_bytes() == b""
    with EpisodeStore(path) as store:
        assert len(store) == 40


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission(path: Path, tmp_path: Path, capsys: Output) -> None:
    tmp_path.chmod(0o500)
    try:
        assert str(tmp_path) in refused(capsys, "card", path)
    finally:
        tmp_path.chmod(0o700)


def test_flags_that_make_no_sense(path: Path, capsys: Output) -> None:
    assert "name the episode files" in refused(capsys, "check")
    assert "--out is for one file" in refused(capsys, "check", path, path, "--repair", "--out", "x.h5")
    assert "two files or more" in refused(capsys, "merge", path, "--out", path.with_name("x.h5"))
    assert "given twice" in refused(capsys, "merge", path, path, "--out", path.with_name("x.h5"))
    assert "with sum 1" in refused(capsys, "split", path, "--shares", "0.5", "0.1", "0.1", "--out", path.parent)
    assert "ends in .png" in refused(capsys, "preview", path, "--out", path.with_name("x.jpg"))
    assert "does not tell a format" in refused(capsys, "convert", path, path.with_name("somewhere"))
    assert "nosuchpackage" in refused(capsys, "fetch", "nosuchpackage")
    assert "inof" in refused(capsys, "inof", path)


def test_convert_there_and_back(path: Path, capsys: Output) -> None:
    pictures, again = path.with_name("pictures"), path.with_name("again.h5")
    text = said(capsys, "convert", path, pictures, "--to", "frames")
    assert "40 episodes, 840 frames" in text and "left out: " in text and "questions" in text
    assert f"next: worldmodel datasets info {again}" in said(capsys, "convert", pictures, again)
    with EpisodeStore(again) as store:
        np.testing.assert_array_equal(store.episode(0).frames, make_episode(0, 20).frames)


def test_fetch_lists_what_there_is(capsys: Output) -> None:
    text = said(capsys, "fetch")
    assert all(name in text for name in ("sotu", "wordnet", "openmoji", "iconify", "stamps", "license"))


def test_mix_shows_documents(path: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "texts.jsonl").write_text("\n".join(f'{{"text": "The Congress met {n} times."}}' for n in range(20)))
    mixture = ["--mixture.corpora", tmp_path / "texts.jsonl", "--mixture.pictures", "0", "--mixture.held-out", "0.4"]
    out = tmp_path / "mixture.html"
    text = said(capsys, "mix", "--data", path, *mixture, "--drawn", "50", "--documents", "2", "--out", out)
    assert "The Congress met" in text and "a red disc" in text and out.exists()
