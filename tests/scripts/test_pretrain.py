import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.toys import make_episode
from tests.scripts.conftest import TINY_MODEL, Tiny
from worldmodel.checkpoint import from_pretrained
from worldmodel.codec.codec import load_codec
from worldmodel.codec.rae import RAE
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.standard import MixtureConfig, open_standard
from worldmodel.latent_cache import frame_key
from worldmodel.scripts.cli import run
from worldmodel.scripts.pretrain import dream_sampler, every_frame, latent_cache
from worldmodel.tracking import read_metrics
from worldmodel.training_config import TrainConfig


def losses(run_dir: Path) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if k.startswith(("step", "loss", "data/share"))}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]


def film(path: Path, size: int = 64) -> Path:
    """Frames alone, as a folder of films gives them."""
    nothing = np.zeros((13, 0), np.float32)
    silent: dict = {name: [""] * 13 for name in ("captions", "questions", "answers")}
    silent |= {name: [""] * 12 for name in ("action_texts", "action_words", "changes")}
    silent |= dict(
        actions=nothing[:12], features=nothing, proprio=nothing, state=np.zeros((13, 0)), goal_state=np.zeros(0), goal_text=""
    )
    write_episodes(
        path, [replace(make_episode(i, 12, size), **silent) for i in range(4)], {"env_id": "film", "seed": 0, "feature_names": []}
    )
    return path


def test_latents_on_the_disk_give_the_same_losses_and_are_made_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))

    def train(name: str, caching: str) -> list[dict[str, float]]:
        flags = [str(tmp_path / name) if flag == str(tiny.run) else flag for flag in tiny.pretrain_flags]
        assert run([*flags, "--preset.train.log-every", "1", "--preset.train.cache-latents", caching]) == 0
        return losses(tmp_path / name)

    encoded = train("memory", "memory")
    assert train("disk", "disk") == encoded and len(encoded) == 2
    assert "MiB" in capfd.readouterr().out
    (folder,) = (tmp_path / "home" / "cache" / "latents").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"}
    monkeypatch.setattr(RAE, "encode", None)  # whoever encodes a frame now fails
    assert train("again", "disk") == encoded
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"} == before


def test_every_frame_and_picture_is_cached(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))
    data = open_standard([tiny.data], MixtureConfig(text=0, held_out=0.4))
    (store,), pictures = data.stores, data.train_pictures
    assert pictures is not None
    frames = [frame.tobytes() for frame in itertools.islice(every_frame(data), store.num_frames)]
    assert frames == [frame.tobytes() for i in range(len(store)) for frame in store.episode(i).frames]
    assert sum(1 for _ in every_frame(data)) == store.num_frames + len(pictures)
    codec = load_codec(tiny.codec)
    cache = latent_cache(data, codec, TrainConfig(cache_dtype="float16"))
    drawn = [pictures.image(0), store.frame(0, 0), store.frame(1, 3)]
    assert set(cache.read([frame_key(frame) for frame in drawn])) == {frame_key(frame) for frame in drawn}
    other = open_standard([tiny.data], MixtureConfig(text=0, held_out=0.4, split_seed=1))
    assert latent_cache(other, codec, TrainConfig(cache_dtype="float16")).folder != cache.folder, "other pictures are trained on"


def test_text_alone_needs_no_episode_file(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "text.toml"
    recipe.write_text(f'[[source]]\nkind = "text"\nweight = 1\ncorpus = "{tiny.texts}"\n')
    flags = ["--codec", str(tiny.codec), "--out", str(tmp_path / "run"), "--vocab-size", "300", "--mixture.recipe", str(recipe)]
    assert run(["pretrain", *flags, *TINY_MODEL, "--preset.train.cache-latents", "disk"]) == 0
    assert "next: worldmodel generate" in capfd.readouterr().out
    (row,) = losses(tmp_path / "run")
    assert row["loss/text"] > 0 and row["data/share/text"] == 1


def test_films_alone_can_be_trained_on(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = film(tmp_path / "film.h5")
    flags = ["--data", str(data), "--codec", str(tiny.codec), "--out", str(tmp_path / "run"), "--vocab-size", "300", *tiny.mixture]
    assert run(["pretrain", *flags, *TINY_MODEL, "--preset.train.sample-every", "1", "--preset.train.log-every", "1"]) == 0
    assert "next: worldmodel generate" in capfd.readouterr().out, "without actions there is nothing to dream with"
    rows = losses(tmp_path / "run")
    assert "loss/flow" in rows[-1] and not any(name.startswith("dream/") for row in rows for name in row)
    card = from_pretrained(tmp_path / "run" / "checkpoints" / "step_000002").card
    assert {entry["kind"] for entry in card["sources"]} == {"video", "text"} and json.dumps(card)


def test_the_dream_is_of_a_file_with_actions(tiny: Tiny, tmp_path: Path) -> None:
    codec, shares = load_codec(tiny.codec), MixtureConfig(text=0, pictures=0, held_out=0.4)
    both = open_standard([film(tmp_path / "film.h5"), tiny.data], shares)
    tokenizer = from_pretrained(tiny.run / "checkpoints" / "step_000002").tokenizer
    assert dream_sampler(both, codec, tokenizer) is not None
    assert dream_sampler(open_standard([tmp_path / "film.h5"], shares), codec, tokenizer) is None
    assert EpisodeStore(tmp_path / "film.h5").action_size == 0


def test_pictures_alone_have_the_size_of_the_codec(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "pairs.toml").write_text('[[source]]\nkind = "pairs"\nweight = 1\npairs = "openmoji"\n')
    data = open_standard([], MixtureConfig(recipe=str(tmp_path / "pairs.toml")), image_size=48)
    assert data.train_pictures is not None and data.train_pictures.image(0).shape == (48, 48, 3)


def test_help_says_what_the_presets_are(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["pretrain", "--help"])
    said = " ".join(capfd.readouterr().out.split())
    assert "Two CPU cores, minutes." in said and "preset:small --preset.train.lr 3e-4" in said
