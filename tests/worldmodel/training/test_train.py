"""Training: it learns, it logs, it stops cleanly, and a run that was killed goes on bit for bit."""

import math
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from tests.waiting import PATIENCE, wait_for
from tests.worldmodel import toys
from tests.worldmodel.runs import CONFIG, Crash, assert_same_run, crash_after, losses, run, state
from worldmodel.batch import PackedBatch
from worldmodel.checkpoint import read_checkpoint
from worldmodel.datasets.atomic import locked_folder
from worldmodel.errors import UserError
from worldmodel.losses import LossCounts, NoiseSample
from worldmodel.model import WorldModel
from worldmodel.moe import FeedForwardKind
from worldmodel.packing import Packer
from worldmodel.training import run as training_run
from worldmodel.training import train as training
from worldmodel.training.config import TrainConfig
from worldmodel.training.latent_cache import build_latent_cache
from worldmodel.training.metric_rows import read_rows
from worldmodel.training.tracking import Tracker
from worldmodel.training.train import stop_on_signals
from worldmodel.transformer import Trunk


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("moe", {}),
        ("modality", {"optimizer": "muon", "cache_latents": "none"}),
        ("shared", {"checkpoint_every": 2, "keep_checkpoints": 1}),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, kind: FeedForwardKind, changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    whole = run(tmp_path / "whole", config, kind)
    with pytest.raises(Crash):
        run(tmp_path / "broken", config, kind, model=crash_after(5, toys.model(kind)))
    resumed = run(tmp_path / "broken", config, kind, seed=1)  # the fresh model's weights do not matter
    assert whole.finished and resumed.finished
    assert resumed.checkpoint == tmp_path / "broken" / "checkpoints" / "step_000006"
    assert_same_run(tmp_path / "whole", tmp_path / "broken", 6, kind, config)


def test_a_run_that_was_asked_to_stop_saves_and_goes_on(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    stop, model = threading.Event(), toys.model("moe")
    original, steps = model.loss, []

    def loss(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 2:
            stop.set()
        return original(*arguments)

    model.loss = loss  # type: ignore[method-assign]
    result = run(tmp_path / "stopped", model=model, stop=stop)
    assert (result.step, result.finished, result.checkpoint.name) == (2, False, "step_000002")
    result = run(tmp_path / "stopped")
    assert (result.step, result.finished) == (6, True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 6)


def block(step: int, model: WorldModel, tracker: Tracker) -> None:
    """A sample that never ends."""
    while True:
        time.sleep(1)


def train_and_hang(run_dir: Path, config: TrainConfig) -> None:
    """Runs in a process of its own: ten steps, of which the first eight are in checkpoints."""
    torch.set_num_threads(1)
    run(run_dir, config, on_sample=block)


def test_a_run_killed_with_sigkill_goes_on(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=12, checkpoint_every=4, sample_every=10)
    process = multiprocessing.get_context("spawn").Process(target=train_and_hang, args=(tmp_path / "killed", config), daemon=True)
    process.start()
    rows = tmp_path / "killed" / "metrics.jsonl"
    wait_for(lambda: len(read_rows(rows)) >= 10, "ten steps", process.is_alive)
    with pytest.raises(UserError, match="is in use by another process"):
        run(tmp_path / "killed", config)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (tmp_path / "killed" / "checkpoints" / ".step_000010.1.tmp").mkdir()  # as if killed while saving
    run(tmp_path / "killed", config)
    run(tmp_path / "whole", config)
    assert_same_run(tmp_path / "killed", tmp_path / "whole", 12)
    assert sorted(p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()) == [
        "step_000008",
        "step_000012",
    ]


def test_the_loss_falls_and_everything_is_logged(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40, log_every=10, sample_every=20, checkpoint_every=1000)
    calls: list[int] = []

    def on_sample(step: int, model: WorldModel, tracker: Tracker) -> None:
        assert not model.training and not torch.is_grad_enabled()
        tracker.scalars(step, {"mine": 1.0})
        calls.append(step)

    result = run(tmp_path, config, on_sample=on_sample)
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if "mine" not in row]
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert result.metrics == rows[-1] | {"mine": 1.0}
    assert rows[-1]["loss/text"] < 0.9 * rows[0]["loss/text"]
    names = {
        "loss/total",
        "loss/text",
        "loss/flow",
        "loss/router",
        "gradient_norm",
        "learning_rate",
        "speed/flops",
        "speed/share_of_matmul",
        "experts/max_over_mean/visual",
        "data/filled",
    }
    sources = {f"data/share/{name}" for name in ("videos", "sentences", "captions", "drawings")}
    assert names | sources | {"tokens_per_second", "data/wait_share"} <= rows[-1].keys()
    assert sum(rows[-1][name] for name in sources) == pytest.approx(1)
    assert rows[-1]["data/epochs/videos"] == pytest.approx(4 * rows[0]["data/epochs/videos"], rel=0.2)
    assert 0 <= rows[-1]["data/wait_share"] <= 1 and rows[-1]["tokens_per_second"] > 0
    assert rows[-1]["learning_rate"] == pytest.approx(0.1 * config.lr)
    assert calls == [20, 40]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss/total")] == [10, 20, 30, 40]
    for name in ("samples/truth_above_one_step", "samples/expert_load"):
        assert {event.step for event in board.Images(name)} == {20, 40}, name


def test_every_batch_draws_noise_of_its_own(tmp_path: Path) -> None:
    def noises(run_dir: Path, config: TrainConfig) -> list[float]:
        model, found = toys.model("moe"), []
        original = model.loss

        def loss(batch: PackedBatch, latents: Tensor, noise_sample: NoiseSample, counts: LossCounts) -> Any:
            found.append(float(noise_sample.noise.sum()))
            return original(batch, latents, noise_sample, counts)

        model.loss = loss  # type: ignore[method-assign]
        run(run_dir, config, model=model)
        return found

    first, again = noises(tmp_path / "a", CONFIG), noises(tmp_path / "b", replace(CONFIG, log_every=4))
    assert first == again
    assert len(set(first)) == 6
    assert not set(first) & set(noises(tmp_path / "c", replace(CONFIG, seed=1)))


def test_text_alone_can_be_learnt(tmp_path: Path) -> None:
    packer = Packer(toys.measured([(toys.Sentences(), 1.0)]), toys.tokenizer(), toys.GRID, 2, toys.PACKING)
    result = run(tmp_path, replace(CONFIG, sample_every=3), packer=packer)
    assert result.finished and "loss/flow" not in result.metrics


def test_a_checkpoint_holds_the_averaged_model_and_its_card(tmp_path: Path) -> None:
    result = run(tmp_path, card={"mixture": {"videos": 2.0}})
    found, tensors = read_checkpoint(result.checkpoint), state(result.checkpoint)
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, tensors[f"average.{name}"]), name
    weight = "trunk.blocks.0.attention.qkv.weight"
    assert not torch.equal(tensors[f"average.{weight}"], tensors[f"model.{weight}"])
    assert found.card["step"] == 6
    assert set(found.card["positions"]) == {"videos", "sentences", "captions", "drawings"}
    assert found.card["train"]["lr"] == CONFIG.lr
    assert found.card["mixture"] == {"videos": 2.0}
    with pytest.raises(UserError, match="card.mixture.videos was 2.0 and is now 3.0"):
        run(tmp_path, card={"mixture": {"videos": 3.0}})


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path, model=crash_after(0, toys.model("moe")))
    assert again == first


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, checkpoint_every=1, keep_checkpoints=2))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_000005",
        "step_000006",
    ]


def test_a_run_folder_in_use_is_refused(tmp_path: Path) -> None:
    with locked_folder(tmp_path), pytest.raises(UserError, match=f"{tmp_path} is in use"):
        run(tmp_path)
    assert run(tmp_path).finished


def test_a_run_folder_with_other_settings_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"}
    other = replace(CONFIG, lr=0.5, packing=replace(toys.PACKING, rows=4))
    with pytest.raises(UserError, match="train.packing.rows was 3 and is now 4, train.lr was 0.003 and is now 0.5") as error:
        run(tmp_path, other)
    assert "steps" not in str(error.value)
    with pytest.raises(UserError, match="model.trunk.feed_forward was 'moe' and is now 'shared'"):
        run(tmp_path, kind="shared")
    with pytest.raises(UserError, match="data.seed was 0 and is now 5"):
        run(tmp_path, packer=toys.packer(seed=5))
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"}


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"kind": "rae", "schema_version": 1}')
    with pytest.raises(UserError, match="belongs to something else"):
        run(tmp_path)


def test_what_changes_nothing_may_be_another_when_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, packing=replace(toys.PACKING, rows=4), compile="off")
    with pytest.raises(Crash):
        run(tmp_path, config, model=crash_after(4, toys.model("moe")))
    compiled: list[Trunk] = []
    monkeypatch.setattr(training_run, "should_compile", lambda choice, device: choice == "on")
    monkeypatch.setattr(training_run, "compile_blocks", compiled.append)
    assert run(tmp_path, replace(config, accumulation=2, compile="on", data_workers=1)).finished
    assert len(compiled) == 1 and len(losses(tmp_path)) == 6


def test_a_codec_or_packer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the packer was built with"):
        run(tmp_path, packer=toys.packer(config=replace(toys.PACKING, rows=1)))
    model = WorldModel(replace(toys.model_config(), channels=12))
    with pytest.raises(UserError, match="latent channels is 12, the codec's 8"):
        run(tmp_path, model=model)
    assert list(tmp_path.iterdir()) == []


def test_training_in_bfloat16_keeps_float32_weights(tmp_path: Path) -> None:
    model = toys.model("moe")
    result = run(tmp_path, replace(CONFIG, steps=2, dtype="bfloat16"), model=model)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    single = run(tmp_path / "float32", replace(CONFIG, steps=2))
    assert result.metrics["loss/total"] == pytest.approx(single.metrics["loss/total"], rel=0.05)
    assert result.metrics["loss/total"] != single.metrics["loss/total"]


@pytest.mark.parametrize("field", ["steps", "log_every", "checkpoint_every", "keep_checkpoints"])
def test_counts_must_be_positive(field: str) -> None:
    with pytest.raises(UserError, match=f"{field} must be at least 1, got 0"):
        TrainConfig(**{field: 0})


def test_a_source_that_comes_again_is_announced_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Few(toys.Sentences):
        def __len__(self) -> int:
            return 70

    packer = Packer(toys.measured([(Few(), 1.0)]), toys.tokenizer(), toys.GRID, 2, toys.PACKING)
    run(tmp_path, packer=packer, model=toys.model("moe"))
    said = [record.message for record in caplog.records if "pass" in record.message]
    assert said == ["source 'sentences' begins its second pass: the model sees its data again"]
    caplog.clear()
    run(tmp_path / "again", replace(CONFIG, steps=9), packer=packer, model=toys.model("moe"))
    run(tmp_path / "again", replace(CONFIG, steps=9), packer=packer, model=toys.model("moe"))
    assert len([record for record in caplog.records if "pass" in record.message]) == 1


def test_training_from_a_cache_on_the_disk_is_the_same_run(tmp_path: Path) -> None:
    config = replace(CONFIG, cache_latents="disk")
    frames = [frame.numpy() for batch, _ in zip(toys.packer(), range(4), strict=False) for frame in batch.frames]  # not all of them
    cache = build_latent_cache(tmp_path / "latents", toys.codec(), frames, len(frames))
    run(tmp_path / "disk", config, latents=cache)
    run(tmp_path / "fly", replace(CONFIG, cache_latents="none"))
    for disk, fly in zip(losses(tmp_path / "disk"), losses(tmp_path / "fly"), strict=True):
        assert disk == pytest.approx(fly, rel=1e-4)  # frames encoded with others may round differently
    with pytest.raises(ValueError, match="no latent cache was given"):
        run(tmp_path / "without", config)


def test_signals_ask_to_stop_and_then_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(PATIENCE)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(PATIENCE)
    assert signal.getsignal(signal.SIGTERM) is before


def test_under_torchrun_an_echo_of_a_signal_is_the_same_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setattr(training, "SIGNAL_DEBOUNCE_S", math.inf)
    with stop_on_signals() as stop:
        for _ in range(2):  # the second may come at any time of the wait
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wait(PATIENCE)
        monkeypatch.setattr(training, "SIGNAL_DEBOUNCE_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(PATIENCE)
