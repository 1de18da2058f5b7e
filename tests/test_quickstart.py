"""The whole loop in miniature, as a user runs it: `worldmodel quickstart`, then the same command again."""

import hashlib
import html
import json
import math
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.forks import CLI, Forks
from worldmodel.agents.protocol import Manifest
from worldmodel.benchmarks.quickstart_estimate import as_sentence, estimate
from worldmodel.checkpoint import read_checkpoint
from worldmodel.codec.config import CodecConfig
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.films import SHORTEST, SLOWEST, STRIP
from worldmodel.envs import full_id, make_task
from worldmodel.presets import tiny
from worldmodel.scripts.quickstart import QuickstartConfig, as_the_task_says, collection
from worldmodel.training.resume import locked_run_folder

CONTROLLERS = ["random", "random_held", "copy_last_frame", "policy", "guided", "cem", "oracle"]
EPISODES, STEPS, CONTEXT, HORIZON, CLIPS = 6, 12, 2, 2, 3
SMALL = (
    f"--task TwoRoom --episodes {EPISODES} --steps {STEPS} --workers 1 --vocab-size 400 --mixture.held-out 0.4 "
    "--codec.probe-frames 64 --ladder.reader.steps 4 --ladder.reader.checks 1 --ladder.menu.problems 2 --ladder.menu.candidates 4 "
    f"--dream.clips {CLIPS} --dream.horizon {HORIZON} --language-frames 4 --problems.problems 2 --problems.goal-offset 6 "
    "--problems.budget 6 --problems.min-distance 0.1 --train.steps 4 --train.packing.rows 2 "
    "--train.log-every 2 --train.sample-every 2 --train.checkpoint-every 2 "
    "--mixture.action-block 3 --evaluate.mpc.replan-every 1 --planner.horizon 2 "
    "--planner.num-samples 4 --planner.num-elites 2 --planner.iterations 1"
).split()


@dataclass(frozen=True)
class Quickstart:
    """A finished run."""

    out: Path
    printed: str
    arguments: list[str]


def quickstart(forked: Forks, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.python(*CLI, "quickstart", *arguments, folder=Path.cwd(), env=os.environ)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, forked: Forks) -> Quickstart:
    """Run once, with a short corpus instead of the packaged one."""
    folder = tmp_path_factory.mktemp("quickstart")
    lines = [json.dumps({"text": f"The Congress of the United States met {n} times."}) for n in range(40)]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    arguments = ["--out", str(folder / "out"), "--mixture.corpora", str(folder / "texts.jsonl"), *SMALL]
    result = quickstart(forked, *arguments)
    assert result.returncode == 0, result.stderr
    return Quickstart(folder / "out", result.stdout, arguments)


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def digests(out: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*")) if path.is_file()
    }


def numbers(value: Any) -> Iterator[float]:
    """Every number in a JSON value."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


def test_it_begins_with_what_it_will_do_and_about_how_long(done: Quickstart) -> None:
    plan, time, *_ = done.printed.splitlines()
    assert plan.startswith(f"worldmodel/TwoRoom-v0: {EPISODES} episodes of {STEPS} actions (demonstrator 0.1, noisy 0.35, ")
    assert f"4 training steps, 2 planning problems; all of it goes to {done.out}" in plan
    assert re.fullmatch(
        r"about \d+ minutes on this machine's CPU, a rough estimate \(minutes: collect [\d.]+; .*diagnose [\d.]+\)", time
    )


def test_what_is_left_open_is_as_the_task_says() -> None:
    for name in ("PushT", "worldmodel/Ant-v0"):
        recording = make_task(full_id(name)).recording
        config = as_the_task_says(QuickstartConfig(task=name), recording)
        recorded = collection(config, Path("out"))
        assert recorded.env == full_id(name) and recorded.episodes == 3000
        assert (recorded.max_steps, recorded.variation, recorded.policies) == (
            recording.max_steps,
            recording.variation,
            dict(recording.policies),
        )
        assert (config.mixture.action_block, config.problems.problems) == (3, 100)
    assert make_task(full_id("PushT")).recording != make_task(full_id("Ant")).recording
    asked = QuickstartConfig(task="PushT", episodes=7, steps=9, variation=("block.color",), policies={"random": 1.0})
    recorded = collection(as_the_task_says(asked, make_task(full_id("PushT")).recording), Path("out"))
    assert (recorded.episodes, recorded.max_steps, recorded.variation, recorded.policies) == (7, 9, ("block.color",), {"random": 1.0})


def test_too_few_problems_show_before_any_training_and_bind_nothing(done: Quickstart, tmp_path: Path, forked: Forks) -> None:
    wrong = replaced(replaced(done.arguments, "--out", str(tmp_path / "out")), "--problems.problems", "100")
    result = quickstart(forked, *wrong)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert re.search(r"error: only \d+ of 100 problems found in 2 held-out episodes", result.stderr)
    assert (tmp_path / "out" / "episodes.h5").exists() and not (tmp_path / "out" / "codec").exists()
    with locked_run_folder(tmp_path / "out", {"other": "settings"}):
        pass


def test_the_estimate_grows_with_the_work() -> None:
    few = CollectConfig(episodes=100, max_steps=6, image_size=16, workers=1, policies={"random": 1.0})
    preset = tiny()
    longer = replace(preset, train=replace(preset.train, steps=2 * preset.train.steps))
    once = estimate(few, CodecConfig(), preset, 100)
    more = estimate(replace(few, episodes=100_000), CodecConfig(decoder_steps=10_000), longer, 1000)
    assert list(once) == ["collect", "codec", "pretrain", "dream, write, draw", "plan", "diagnose"]
    assert more["collect"] > 20 * once["collect"] and more["codec"] > 2 * once["codec"]
    assert 1.2 < more["pretrain"] / once["pretrain"] < 4 and more["plan"] > 4 * once["plan"]
    assert 10 < once["pretrain"] < 20_000
    assert as_sentence({"collect": 90.0, "plan": 210.0}) == (
        "about 5 minutes on this machine's CPU, a rough estimate (minutes: collect 1.5; plan 3.5)"
    )


def test_it_ends_with_the_table_of_success_rates(done: Quickstart) -> None:
    table = done.printed[done.printed.index("success over 2 held-out problems") :].splitlines()
    scores = report(done.out)["planning"]["controllers"]
    assert [score["name"] for score in scores] == CONTROLLERS
    for line, score in zip(table[2:], scores, strict=False):
        low, high = score["interval_95"]
        cells = [score["name"], f"{score['success_rate']:.1%}", f"{low:.1%} - {high:.1%}"]
        assert re.split(r"\s{2,}", line)[:3] == cells
        assert 0 <= low <= score["success_rate"] <= high <= 1 and high - low < 1
    assert f"Open {done.out / 'report.html'}" in done.printed


def test_what_was_collected_and_trained_can_be_read(done: Quickstart) -> None:
    with EpisodeStore(done.out / "episodes.h5") as store:
        assert (len(store), store.num_frames) == (EPISODES, EPISODES * (STEPS + 1))
    trained = read_checkpoint(done.out / "checkpoint")
    assert trained.card["step"] == 4
    assert trained.model.config.channels == trained.codec.channels
    assert {"transition", "goal"} <= set(trained.card["positions"]) and trained.card["mixture"]["held_out"] == 0.4
    assert len(Manifest.load(done.out / "manifest.json").problems) == 2


def decode(path: Path, height: int, width: int) -> np.ndarray:
    """Frames of a film (t, height, width, 3); fails if it has another size."""
    _, seconds = imageio_ffmpeg.count_frames_and_secs(path)
    assert seconds > 0
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(command, capture_output=True, check=True)
    assert f" {width}x{height}" in result.stderr.decode()
    return np.frombuffer(result.stdout, np.uint8).reshape(-1, height, width, 3)


def test_films_can_be_played(done: Quickstart) -> None:
    whole = round(SHORTEST * SLOWEST)  # frames of a short film, with those that stand still at its end
    dream = decode(done.out / "dream.mp4", 2 * (STRIP + 4 * 64), 4 * CLIPS * 64)
    assert len(dream) == whole > CONTEXT + HORIZON and dream.std() > 10
    given, ahead = dream[CONTEXT - 1], dream[CONTEXT]
    assert np.abs(given[STRIP + 256 : 2 * STRIP + 256].astype(int) - ahead[STRIP + 256 : 2 * STRIP + 256]).max() > 100, "other words"
    films = sorted(path.name for path in done.out.glob("plan_*.mp4"))
    assert films == sorted(f"plan_{name}_{i}.mp4" for name in CONTROLLERS for i in range(2))
    for name in films:
        frames = decode(done.out / name, STRIP + 3 * 64, 3 * (64 + 2 + 64))
        assert len(frames) == whole and frames.std() > 10
        assert frames[0][:STRIP].min() < 100 < 200 < frames[0][:STRIP].mean(), "dark words on white"


def test_the_page_needs_nothing_beside_it(done: Quickstart) -> None:
    page = (done.out / "report.html").read_text()
    references = re.findall(r"(?:src|href|srcset|poster|data)\s*=\s*['\"]([^'\"]{0,40})", page)
    assert len(references) > 10
    assert all(reference.startswith("data:") for reference in references)
    assert not re.search(r"<script|<link|@import|url\(", page)
    assert all(f">{name}<" in page for name in CONTROLLERS)
    assert page.count("data:video/mp4") == 1 + 5 * 2  # the dream, and two problems of the controllers that are shown


def test_the_record_is_whole_and_finite(done: Quickstart) -> None:
    found = report(done.out)
    parts = {"made_by", "config", "planning", "dream", "text", "continued", "language", "codec", "ladder", "seconds"}
    assert set(found) == parts | {"generator"}
    assert all(math.isfinite(number) for number in numbers(found))
    assert found["config"]["episodes"] == EPISODES and found["config"]["task"] == "worldmodel/TwoRoom-v0"
    assert found["planning"]["protocol"]["problems"] == 2
    for kind in ("latent_mse", "pixel_mse"):
        assert set(found["dream"][kind]) == {"learned", "shuffled_actions", "copy_last_frame"}
        assert all(len(by_horizon) == HORIZON for by_horizon in found["dream"][kind].values())
    assert found["text"]["model"] > 0 and found["text"]["unigram"] > 0
    assert {"caption, whole", "caption, color", "answer, open"} <= {entry["name"] for entry in found["language"]}
    assert all({"rate", "interval", "chance", "total"} <= set(entry) for entry in found["language"])
    assert set(found["codec"]["objectives"]) == {"pixels"} and found["codec"]["chosen"] == "pixels"
    assert {row["rung"] for row in found["ladder"]["rows"]} == {"codec", "dynamics", "ranking", "search", "result"}
    assert found["ladder"]["verdict"] in html.unescape((done.out / "report.html").read_text())
    assert set(found["seconds"]) == {"collect", "codec", "pretrain", "dream", "language", "plan", "diagnose"}


def test_tensorboard_has_losses_and_pictures(done: Quickstart) -> None:
    board = EventAccumulator(str(done.out / "pretrain" / "tensorboard"))
    board.Reload()
    for name in ("loss/text", "loss/flow"):
        assert [event.step for event in board.Scalars(name)] == [2, 4]
    assert "samples/truth_above_dream" in board.Tags()["images"]
    codec = EventAccumulator(str(done.out / "tensorboard"))
    codec.Reload()
    assert "codec/pixels/probe_r2" in codec.Tags()["scalars"]


def test_the_same_command_again_skips_what_is_done_and_scores_the_same(done: Quickstart, forked: Forks) -> None:
    before, first = digests(done.out), report(done.out)
    again = quickstart(forked, *done.arguments)
    assert again.returncode == 0, again.stderr
    after, second = digests(done.out), report(done.out)
    kept = [name for name in before if name == "episodes.h5" or name.split("/")[0] in ("checkpoint", "codec")]
    kept += [name for name in before if name.startswith("pretrain/checkpoints/")]
    assert "episodes.h5" in kept and "checkpoint/model.safetensors" in kept and "codec/model.safetensors" in kept
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert "complete already" in again.stderr and "holds a finished codec" in again.stderr
    for one, other in zip(first["planning"]["controllers"], second["planning"]["controllers"], strict=True):
        for key in ("name", "success_rate", "held_rate", "streams"):
            assert one[key] == other[key], (one["name"], key)
    for key in ("dream", "text", "continued", "language"):
        assert first[key] == second[key], key


def test_another_setting_on_the_same_folder_is_refused(done: Quickstart, forked: Forks) -> None:
    before = digests(done.out)
    result = quickstart(forked, *replaced(done.arguments, "--episodes", "7"))
    assert result.returncode == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"worldmodel quickstart: error: the run folder {done.out} holds a run with other settings")
    assert f"episodes was {EPISODES} and is now 7" in line
    assert digests(done.out) == before


def replaced(arguments: list[str], flag: str, value: str) -> list[str]:
    """The same arguments with another value of one flag."""
    place = arguments.index(flag) + 1
    return [*arguments[:place], value, *arguments[place + 1 :]]
