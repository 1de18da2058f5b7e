import contextlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.toys import make_episode
from tests.scripts.conftest import TINY_MODEL, Tiny
from tests.scripts.refusals import Refused
from tests.waiting import PATIENCE
from worldmodel.checkpoint import read_checkpoint
from worldmodel.codec.kinds import load_codec
from worldmodel.codec.rae import RAE
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.mixture.training_data import MixtureConfig, open_training_data
from worldmodel.scripts.cli import run
from worldmodel.training.config import TrainConfig
from worldmodel.training.frame_latents import every_frame, latent_cache
from worldmodel.training.latent_cache import frame_key
from worldmodel.training.metric_rows import read_rows
from worldmodel.training.samples import dream_sampler


def losses(run_dir: Path) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if k.startswith(("step", "loss", "data/share"))}
        for row in read_rows(run_dir / "metrics.jsonl")
        if "loss/total" in row
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
        trained = ["--train.log-every", "1", "--train.validate-every", "0", "--train.cache-latents", caching]
        still = ["--mixture.shift", "0"]  # frames that are moved are not on the disk
        assert run([flags[0], *still, *flags[1:], *trained]) == 0
        return losses(tmp_path / name)

    encoded = train("memory", "memory")
    for disk, memory in zip(train("disk", "disk"), encoded, strict=True):
        assert disk == pytest.approx(memory, rel=1e-4)  # frames encoded with others may round differently
    assert len(encoded) == 2
    assert "MiB" in capfd.readouterr().out
    (folder,) = (tmp_path / "home" / "cache" / "latents").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(RAE, "encode", None)  # whoever encodes a frame now fails
    assert train("again", "disk") == losses(tmp_path / "disk")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_every_frame_and_picture_is_cached(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))
    data = open_training_data([tiny.data], MixtureConfig(text=0, held_out=0.4))
    (store,), pictures = data.stores, data.train_pictures
    assert pictures is not None
    frames = [frame.tobytes() for frame in itertools.islice(every_frame(data), store.num_frames)]
    assert frames == [frame.tobytes() for i in range(len(store)) for frame in store.episode(i).frames]
    assert sum(1 for _ in every_frame(data)) == store.num_frames + len(pictures)
    codec = load_codec(tiny.codec)
    cache = latent_cache(data, codec, TrainConfig(cache_dtype="float16"))
    drawn = [pictures.image(0), store.frame(0, 0), store.frame(1, 3)]
    assert set(cache.read([frame_key(frame) for frame in drawn])) == {frame_key(frame) for frame in drawn}
    other = open_training_data([tiny.data], MixtureConfig(text=0, held_out=0.4, split_seed=1))
    assert latent_cache(other, codec, TrainConfig(cache_dtype="float16")).folder != cache.folder, "other pictures are trained on"


def test_text_alone_needs_no_episode_file(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "text.toml"
    recipe.write_text(f'[[source]]\nkind = "text"\nweight = 1\ncorpus = "{tiny.texts}"\n')
    flags = ["--codec", str(tiny.codec), "--out", str(tmp_path / "run"), "--vocab-size", "400", "--mixture.recipe", str(recipe)]
    assert run(["pretrain", *flags, *TINY_MODEL, "--train.cache-latents", "disk"]) == 0
    assert "next: worldmodel generate" in capfd.readouterr().out
    (row,) = losses(tmp_path / "run")
    assert row["loss/text"] > 0 and row["data/share/text"] == 1


def test_films_alone_can_be_trained_on(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = film(tmp_path / "film.h5")
    flags = ["--data", str(data), "--codec", str(tiny.codec), "--out", str(tmp_path / "run"), "--vocab-size", "400", *tiny.mixture]
    assert run(["pretrain", *flags, *TINY_MODEL, "--train.sample-every", "1", "--train.log-every", "1"]) == 0
    assert "next: worldmodel generate" in capfd.readouterr().out, "without actions there is nothing to dream with"
    rows = losses(tmp_path / "run")
    assert "loss/flow" in rows[-1] and not any(name.startswith("dream/") for row in rows for name in row)
    card = read_checkpoint(tmp_path / "run" / "checkpoints" / "step_000002").card
    assert {entry["kind"] for entry in card["sources"]} == {"video", "text"} and json.dumps(card)


def test_the_dream_is_of_a_file_with_actions(tiny: Tiny, tmp_path: Path) -> None:
    codec, shares = load_codec(tiny.codec), MixtureConfig(text=0, pictures=0, held_out=0.4)
    both = open_training_data([film(tmp_path / "film.h5"), tiny.data], shares)
    tokenizer = read_checkpoint(tiny.run / "checkpoints" / "step_000002").tokenizer
    assert dream_sampler(both, codec, tokenizer) is not None
    assert dream_sampler(open_training_data([tmp_path / "film.h5"], shares), codec, tokenizer) is None
    assert EpisodeStore(tmp_path / "film.h5").action_size == 0


def test_pictures_alone_have_the_size_of_the_codec(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "pairs.toml").write_text('[[source]]\nkind = "pairs"\nweight = 1\npairs = "openmoji"\n')
    data = open_training_data([], MixtureConfig(recipe=str(tmp_path / "pairs.toml")), image_size=48)
    assert data.train_pictures is not None and data.train_pictures.image(0).shape == (48, 48, 3)


def test_help_says_what_the_presets_are(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["pretrain", "--help"])
    said = " ".join(capfd.readouterr().out.split())
    assert "Train on two CPU cores in minutes; for latents of" in said and "--preset paper" in said
    with pytest.raises(SystemExit):
        run(["pretrain", "--preset", "small", "--help-all"])
    said = capfd.readouterr().out
    assert "--preset small --train.lr 3e-4" in said and re.search(r"--train\.lr FLOAT.{,400}?\(default: 0\.0006\)", said, re.DOTALL)


@contextlib.contextmanager
def stopped_at_once() -> Iterator[threading.Event]:
    event = threading.Event()
    event.set()
    yield event


def test_a_run_is_resumed_from_its_folder_alone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], refused: Refused
) -> None:
    out, codec = tmp_path / "run", tmp_path / "codec"
    shutil.copytree(tiny.codec, codec)
    places = {str(tiny.run): str(out), str(tiny.codec): str(codec)}
    flags = [places.get(flag, flag) for flag in tiny.pretrain_flags] + ["--train.log-every", "1"]
    with monkeypatch.context() as patch:
        patch.setattr("worldmodel.training.pretrain.stop_on_signals", stopped_at_once)
        assert run(flags) == 0
    assert f"or --resume {out}" in capfd.readouterr().out
    codec.rename(tmp_path / "moved")
    assert f"was begun with the codec {codec} (--codec FOLDER), not there any more" in refused("pretrain", "--resume", out)
    assert "goes on in its own folder" in refused("pretrain", "--resume", out, "--out", tmp_path / "other")
    assert "is no run of worldmodel pretrain" in refused("pretrain", "--resume", tmp_path)
    assert run(["pretrain", "--resume", str(out), "--codec", str(tmp_path / "moved")]) == 0
    assert "the checkpoint after 2 steps" in capfd.readouterr().out
    assert len(losses(out)) == 2
    assert run(flags[:-2]) == 2, "another log_every is another run"


def test_two_processes_train_what_one_does(tiny: Tiny, tmp_path: Path) -> None:
    flags = [str(tmp_path / "two") if flag == str(tiny.run) else flag for flag in tiny.pretrain_flags[1:]]
    flags += ["--train.log-every", "1", "--train.packing.data-shards", "2", "--train.validate-every", "1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "worldmodel.scripts.pretrain"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("the checkpoint after 2 steps") == 1, "the main process speaks for all"
    one = [str(tmp_path / "one") if flag == str(tmp_path / "two") else flag for flag in flags]
    assert run(["pretrain", *one]) == 0
    for together, alone in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert together == pytest.approx(alone, rel=1e-4)
    validated = [
        [row["validation/text"] for row in read_rows(tmp_path / name / "metrics.jsonl") if "validation/text" in row]
        for name in ("one", "two")
    ]
    assert validated[0] == pytest.approx(validated[1], rel=1e-4) and len(validated[0]) == 2
    assert read_checkpoint(tmp_path / "two").card["step"] == 2
