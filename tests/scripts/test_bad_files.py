"""Episode files, checkpoints and codecs that cannot be read: each ends in one sentence on stderr and exit status 2."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.scripts.conftest import Tiny
from tests.scripts.refusals import READERS, Refused, reading, replaced, snapshot


def truncated(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[:-1000])


def not_hdf5(path: Path, good: Path) -> None:
    path.write_text("a,b,c\n1,2,3\n")


def of_another_program(path: Path, good: Path) -> None:
    with h5py.File(path, "w") as file:
        file["frames"] = np.zeros((4, 64, 64, 3), np.uint8)


def of_another_version(path: Path, good: Path) -> None:
    shutil.copy(good, path)
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 99


def without_a_column(path: Path, good: Path) -> None:
    shutil.copy(good, path)
    with h5py.File(path, "r+") as file:
        del file["actions"]


def missing(path: Path, good: Path) -> None:
    pass


def a_folder(path: Path, good: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("verb", ["codec", "pretrain", *READERS])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (missing, "no such file"),
        (a_folder, "is a folder"),
        (truncated, "truncated, damaged or not HDF5"),
        (not_hdf5, "truncated, damaged or not HDF5"),
        (of_another_program, "HDF5 of another program"),
        (of_another_version, "schema version 99"),
        (without_a_column, "actions has no rows"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_episode_files_that_cannot_be_read(
    verb: str, damage: Callable[[Path, Path], None], words: str, tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    path, out = tmp_path / "broken.h5", tmp_path / "out"
    damage(path, tiny.data)
    before = snapshot(tmp_path)
    if verb in READERS:
        said = refused(*reading(tiny, verb, out, data=path))
    else:
        flags = tiny.codec_flags if verb == "codec" else tiny.pretrain_flags
        said = refused(*replaced(flags, data=path, out=out))
    assert str(path) in said and words in said
    assert snapshot(tmp_path) == before and not out.exists()


@pytest.mark.parametrize("verb", ["codec", "pretrain", *READERS])
def test_frames_of_the_wrong_size(verb: str, tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    if verb in READERS:
        said = refused(*reading(tiny, verb, tmp_path, data=tiny.small_frames))
    else:
        flags = tiny.codec_flags if verb == "codec" else tiny.pretrain_flags
        said = refused(*replaced(flags, data=tiny.small_frames, out=tmp_path / "out"))
    assert "48, 48" in said and "64, 64" in said
    assert not any(path.suffix in (".mp4", ".safetensors", ".html") for path in tmp_path.rglob("*"))


def test_files_of_two_frame_sizes(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    flags = replaced(tiny.codec_flags, out=tmp_path / "out")
    assert "frames of [48, 64] pixels" in refused(*flags[:2], tiny.small_frames, *flags[2:])


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def empty_folder(folder: Path) -> None:
    no_folder(folder)
    folder.mkdir()


def other_schema(folder: Path) -> None:
    edit(folder / "config.json", schema_version=99)


def other_kind(folder: Path) -> None:
    edit(folder / "config.json", kind="recipe")


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def tensors_missing(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[sorted(tensors)[0]]
    save_file(tensors, folder / "model.safetensors")


def tensors_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def no_tensors(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def no_codec(folder: Path) -> None:
    shutil.rmtree(folder / "codec")


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def wild_tensors(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if tensors[name].is_floating_point())
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def nested(folder: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 50_000)


BROKEN = [
    (wild_tensors, "not finite"),
    (nested, "nested too deeply"),
    (no_folder, ""),
    (empty_folder, "config.json"),
    (other_schema, "schema version 99"),
    (other_kind, "'recipe'"),
    (not_json, "damaged"),
    (tensors_missing, ""),
    (tensors_cut_short, "damaged"),
    (no_tensors, "missing"),
]


def name_of(value: object) -> str:
    return value.__name__ if callable(value) else ""


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize(("harm", "words"), [*BROKEN, (no_tokenizer, "tokenizer"), (no_codec, "codec")], ids=name_of)
def test_checkpoints_that_cannot_be_read(
    verb: str, harm: Callable[[Path], None], words: str, tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "out"
    shutil.copytree(tiny.run / "checkpoints" / "step_000002", checkpoint)
    harm(checkpoint)
    before = snapshot(tmp_path)
    said = refused(*reading(tiny, verb, out, checkpoint=checkpoint))
    assert str(checkpoint) in said and words in said
    assert snapshot(tmp_path) == before and not out.exists()


@pytest.mark.parametrize(("harm", "words"), BROKEN, ids=name_of)
def test_codecs_that_cannot_be_read(harm: Callable[[Path], None], words: str, tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    shutil.copytree(tiny.codec, tmp_path / "codec")
    harm(tmp_path / "codec")
    said = refused(*replaced(tiny.pretrain_flags, codec=tmp_path / "codec", out=tmp_path / "out"))
    assert str(tmp_path / "codec") in said and words in said
    assert not (tmp_path / "out").exists()


def test_driving_into_a_file_of_something_else(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "x.h5"
    for damage, words in ((truncated, "truncated, damaged or not HDF5"), (shutil.copy, "was not made by `worldmodel play`")):
        damage(*((tiny.data, path) if damage is shutil.copy else (path, tiny.data)))
        before = snapshot(tmp_path)
        assert words in refused("play", "--no-browser", "--port", "0", "--out", path)
        assert snapshot(tmp_path) == before and [file.name for file in tmp_path.iterdir()] == ["x.h5"]
