"""Latents on the disk: the codec's own bits, built once, gone on with, and damage noticed."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.worldmodel import toys
from worldmodel.codec.frames import frames_to_float
from worldmodel.errors import UserError
from worldmodel.training import latent_cache
from worldmodel.training.latent_cache import LatentCache, build_latent_cache, cache_bytes, codec_key, frame_key

FRAMES = np.random.default_rng(0).integers(0, 256, (600, toys.IMAGE, toys.IMAGE, 3), dtype=np.uint8)
KEYS = [frame_key(frame) for frame in FRAMES]
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
"""Products of more rows may round differently."""


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_cache, "PART", 50)


def build(
    folder: Path, frames: np.ndarray = FRAMES, count: int | None = None, dtype: latent_cache.LatentType = "float32"
) -> LatentCache:
    return build_latent_cache(folder, toys.codec(), frames, len(frames), dtype)


def test_rows_are_those_of_the_codec_one_by_one(tmp_path: Path) -> None:
    cache = build(tmp_path / "cache", np.concatenate([FRAMES, FRAMES[:100]]))
    assert len(cache) == 600
    found = cache.read(KEYS)
    for i in (0, 17, 599):
        alone = toys.codec().encode(frames_to_float(FRAMES[i : i + 1]))[0]
        np.testing.assert_allclose(found[KEYS[i]], alone, **ROUNDING)
    assert cache.read([frame_key(FRAMES[0] // 2), KEYS[3]]).keys() == {KEYS[3]}


def test_half_the_room_at_11_bits(tmp_path: Path) -> None:
    whole, half = build(tmp_path / "a").read(KEYS), build(tmp_path / "b", dtype="float16").read(KEYS)
    sizes = [(tmp_path / name / "latents.bin").stat().st_size for name in "ab"]
    assert sizes[0] == 2 * sizes[1]
    for key in KEYS[:50]:
        assert half[key].dtype == np.float32
        np.testing.assert_allclose(half[key], whole[key], rtol=2**-11, atol=1e-6)
    assert sum((tmp_path / "a" / name).stat().st_size for name in ("latents.bin", "keys.bin")) == cache_bytes(toys.codec(), 600)


class Killed(BaseException):
    pass


def until(stop: int) -> Iterator[np.ndarray]:
    yield from FRAMES[:stop]
    raise Killed


@pytest.mark.parametrize("lost", [0, 1, 500])
def test_a_build_that_was_killed_goes_on(tmp_path: Path, few_at_once: None, lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        build_latent_cache(tmp_path, toys.codec(), until(333), 600)
    with pytest.raises(UserError, match="holds no finished latent cache"):
        LatentCache(tmp_path, toys.codec())
    with (tmp_path / "latents.bin").open("r+b") as file:  # rows that did not reach the disk
        file.truncate((tmp_path / "latents.bin").stat().st_size - lost)
    encoded, original = [], latent_cache.encode_frames
    monkeypatch.setattr(latent_cache, "encode_frames", lambda codec, f, device: encoded.append(len(f)) or original(codec, f, device))
    cache = build(tmp_path)
    row = 4 * toys.CHANNELS * 4
    assert sum(encoded) == 300 + -(-lost // row)
    expected, found = build(tmp_path / "at once").read(KEYS), cache.read(KEYS)
    again = KEYS[300 - -(-lost // row) : 300]  # in a smaller batch than at first
    for key in KEYS:
        if key not in again:
            assert np.array_equal(found[key], expected[key]), "the same frames encoded at once have the same bits"
        np.testing.assert_allclose(found[key], expected[key], **ROUNDING)


def test_a_finished_cache_reads_no_frames(tmp_path: Path) -> None:
    build(tmp_path)
    again = build_latent_cache(tmp_path, toys.codec(), until(0), 600)
    assert len(again) == 600


def test_a_full_disk_is_refused_before_the_first_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(latent_cache.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"the latents of 600 frames take 0.0 GB \(float32\), and .* has 0.0 GB left"):
        build_latent_cache(tmp_path, toys.codec(), until(0), 600)


def test_the_cache_of_another_codec_is_refused(tmp_path: Path, few_at_once: None) -> None:
    build(tmp_path / "finished")
    with pytest.raises(UserError, match="holds float32 latents of another codec or version: remove it"):
        build_latent_cache(tmp_path / "finished", toys.codec(seed=1), FRAMES, 600)
    with pytest.raises(UserError, match="holds float32 latents of another"):
        build(tmp_path / "finished", dtype="float16")
    with pytest.raises(Killed):
        build_latent_cache(tmp_path / "begun", toys.codec(), until(333), 600)
    with pytest.raises(UserError, match="an unfinished latent cache of another codec"):
        build_latent_cache(tmp_path / "begun", toys.codec(seed=1), FRAMES, 600)


def test_what_changes_latents_changes_the_codecs_key() -> None:
    codec, key = toys.codec(), codec_key(toys.codec())
    assert codec_key(codec) == key
    codec.decoder.requires_grad_(False)
    next(codec.decoder.parameters()).mul_(2)
    assert codec_key(codec) == key
    codec.mean += 1
    assert codec_key(codec) != key


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def retyped(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda folder: flip(folder / "latents.bin", 5), "row 0"),
        (lambda folder: flip(folder / "keys.bin", 17), "row 0"),
        (lambda folder: (folder / "latents.bin").write_bytes(b""), "wrong size"),
        (lambda folder: (folder / "keys.bin").unlink(), "wrong size"),
        (lambda folder: (folder / "cache.json").write_text("{"), "cache.json"),
        (lambda folder: (folder / "cache.json").write_text(json.dumps({"rows": 1})), "cache.json: it misses"),
        (lambda folder: (folder / "cache.json").write_bytes(b"\xff"), "cache.json"),
        (lambda folder: (folder / "cache.json").write_text("[" * 100_000), "cache.json: it is nested too deeply"),
        (lambda folder: retyped(folder / "cache.json", channels="8"), "cache.json: it.channels is '8', expected int"),
        (lambda folder: retyped(folder / "cache.json", rows=None), "cache.json: it.rows is None, expected int"),
    ],
)
def test_damage_is_noticed(tmp_path: Path, damage: Callable[[Path], None], what: str) -> None:
    build(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=f"the latent cache .* is damaged .*{what}.*: remove the folder"):
        LatentCache(tmp_path, toys.codec()).read(KEYS[:1])


def test_frames_that_cannot_be_encoded_say_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this codec encodes float frames of shape"):
        build(tmp_path, np.zeros((3, 32, 32, 3), np.uint8))
