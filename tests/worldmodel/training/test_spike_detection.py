"""The guard: poisoned batches are passed over and named, spoilt weights taken back, and a killed run decides the same again."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worldmodel import toys
from tests.worldmodel.runs import CONFIG, Crash, assert_same_run, losses, run, state
from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.training.config import TrainConfig
from worldmodel.training.resume import Progress
from worldmodel.training.spike_detection import SkippedBatches, SpikeDetector, read_skipped

RULES = TrainConfig(steps=100, warmup_steps=4, spike_window=8, spike_deviations=5, spike_patience=2, spike_recent=6)


def after(steps: int, config: TrainConfig = RULES) -> SpikeDetector:
    """A guard that has seen so many steps of losses around 2 and norms around 1."""
    spikes = SpikeDetector(config, Progress())
    for step in range(steps):
        spikes.progress.step += 1
        spikes.accept(2 + 0.1 * (-1) ** step, 1 + 0.3 * (-1) ** step)
    return spikes


def test_what_is_not_finite_is_never_trained_on() -> None:
    assert after(0).check(math.nan, 1.0) == "its loss is nan"
    assert after(0).check(1.0, math.inf) == "its gradient norm is inf"
    assert after(0).check(100.0, 100.0) is None


def test_a_spike_stands_out_from_the_steps_before() -> None:
    spikes = after(20)
    assert spikes.check(2.9, 1.0) is None, "many deviations, but not far above the mean"
    assert spikes.check(3.1, 1.0) == "its loss is 3.1 where the last 8 steps had 2 +- 0.1"
    assert spikes.check(2.0, 9.0) is None
    assert spikes.check(2.0, 12.0) == "its gradient norm is 12 where the last 8 steps had 1 +- 0.3"
    noisy = SpikeDetector(RULES, Progress(step=50, losses=[0.5, 8.0] * 4, norms=[1.0] * 8))
    assert noisy.check(20.0, 1.0) is None, "far above the mean, but so are others"


def test_spikes_are_not_looked_for_in_warm_up_or_when_switched_off() -> None:
    assert after(7).check(50.0, 1.0) is None, "too little is known"
    warming = SpikeDetector(replace(RULES, warmup_steps=30), after(20).progress)
    assert warming.check(50.0, 1.0) is None
    off = SpikeDetector(replace(RULES, spike_deviations=0), after(20).progress)
    assert off.check(50.0, 1.0) is None and off.check(math.nan, 1.0)


def test_the_weights_are_suspected_when_skips_come_close_together() -> None:
    spikes = after(20)
    assert not spikes.skip()
    for _ in range(6):
        spikes.progress.step += 1
    assert not spikes.skip(), "the other one is long ago"
    spikes.progress.step += 1
    assert spikes.skip()
    assert spikes.progress.skipped == [20, 27, 29] and spikes.progress.position == 30


def spoilt(factors: Mapping[int, float], crash_at: int | None = None) -> WorldModel:
    """A model whose loss is multiplied on the batches of these numbers, and which fails at another."""
    packer = toys.packer()
    known = {packer.batch(number).documents: factor for number, factor in factors.items()}
    crash = packer.batch(crash_at).documents if crash_at is not None else None
    model = toys.model("moe")
    original = model.loss

    def loss(batch: Any, *arguments: Any) -> Any:
        if batch.documents == crash:
            raise Crash
        total, parts = original(batch, *arguments)
        return total * known.get(batch.documents, 1.0), parts

    model.loss = loss  # type: ignore[method-assign]
    return model


def progress(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "progress.json").read_text())
    return found


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e6])
def test_a_bad_batch_is_passed_over_and_its_documents_are_named(
    tmp_path: Path, factor: float, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(CONFIG, spike_window=2, spike_deviations=5.0, spike_factor=2.0)
    result = run(tmp_path, config, model=spoilt({4: factor}))
    assert result.finished and result.step == 6 and result.metrics["data/skipped"] == 1
    assert progress(result.checkpoint)["skipped"] == [4]
    (row,) = read_skipped(tmp_path / "skipped.jsonl")
    packer = toys.packer()
    documents = list(dict.fromkeys(packer.batch(4).documents))
    assert [each["document"] for each in row["documents"]] == documents and (row["batch"], row["step"]) == (4, 4)
    draw = packer.mixture.draw(documents[0])
    first = row["documents"][0]
    assert (first["source"], first["item"]) == (packer.mixture.sources[draw.source].name, draw.item)
    said = next(record.message for record in caplog.records if "is skipped" in record.message)
    assert (
        said.startswith("batch 4 is skipped after step 4, since its ") and f"{first['source']} item {first['item']} (pass 1)" in said
    )
    assert all(torch.isfinite(tensor).all() for tensor in state(result.checkpoint).values())


def test_a_line_of_something_else_is_told_and_the_others_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, rows = tmp_path / "skipped.jsonl", [{"batch": number, "reason": "its loss is nan"} for number in (1, 4, 7)]
    path.write_text("\n".join([json.dumps(rows[0]), '{"batch": NaN}', '{"step": 3}', *map(json.dumps, rows[1:])]) + "\n")
    SkippedBatches(tmp_path, toys.packer().mixture, 5)
    assert f"{path}: line 2 and 1 more holds no row of a run and is left out: '{{\"batch\": NaN}}'" in caplog.messages
    assert read_skipped(path) == rows[:2]


def test_a_skipped_batch_leaves_no_trace_in_the_weights(tmp_path: Path) -> None:
    """The run goes on as if the batch had not been in the data: step 5 trains on batch 5 with the weights after step 4."""
    run(tmp_path / "skips", replace(CONFIG, steps=4), model=spoilt({2: math.nan}))
    trained = toys.packer().batch(3).sources
    before = progress(run(tmp_path / "two", replace(CONFIG, steps=2)).checkpoint)["positions"]
    after_three = progress(run(tmp_path / "three", replace(CONFIG, steps=3), model=spoilt({2: math.nan})).checkpoint)["positions"]
    assert after_three == {name: before.get(name, 0) + trained.get(name, 0) for name in before | trained}


@pytest.mark.parametrize("crash_at", [5, 8])
def test_a_killed_run_with_skips_equals_an_uninterrupted_one(tmp_path: Path, crash_at: int) -> None:
    config, bad = replace(CONFIG, steps=8, checkpoint_every=2), {1: math.nan, 4: math.nan, 6: math.nan}
    run(tmp_path / "whole", replace(config, spike_recent=1), model=spoilt(bad))
    with pytest.raises(Crash):
        run(tmp_path / "killed", replace(config, spike_recent=1), model=spoilt(bad, crash_at))
    run(tmp_path / "killed", replace(config, spike_recent=1), model=spoilt(bad))
    assert_same_run(tmp_path / "whole", tmp_path / "killed", 8)
    assert read_skipped(tmp_path / "whole" / "skipped.jsonl") == read_skipped(tmp_path / "killed" / "skipped.jsonl")
    assert [row["batch"] for row in read_skipped(tmp_path / "killed" / "skipped.jsonl")] == [1, 4, 6]


@pytest.mark.parametrize("crash_at", [7, 10])
def test_suspect_weights_are_taken_back(tmp_path: Path, crash_at: int) -> None:
    config, bad = replace(CONFIG, steps=8, checkpoint_every=5, spike_patience=2), {6: math.nan, 8: math.nan}
    result = run(tmp_path / "whole", config, model=spoilt(bad))
    assert result.finished
    assert progress(result.checkpoint)["skipped"] == [5, 6, 7, 8], "back to step 5, and on with batch 9"
    assert [row["step"] for row in losses(tmp_path / "whole")] == list(range(1, 9)), "rows of steps taken back are dropped"
    with pytest.raises(Crash):
        run(tmp_path / "killed", config, model=spoilt(bad, crash_at))
    run(tmp_path / "killed", config, model=spoilt(bad))
    assert_same_run(tmp_path / "whole", tmp_path / "killed", 8)


def test_going_back_goes_further_each_time(tmp_path: Path) -> None:
    bad = dict.fromkeys(range(6, 10), math.nan)
    config = replace(CONFIG, steps=9, checkpoint_every=2, spike_patience=2, keep_checkpoints=3)
    result = run(tmp_path, config, model=spoilt(bad))
    assert result.finished
    found = progress(result.checkpoint)
    assert found["skipped"] == [4, 5, 6, 7, 8, 9], "back to step 6, then to step 4"
    assert found["rollbacks"] == 0, "it came further than before"


def test_what_stays_broken_ends_with_a_sentence(tmp_path: Path) -> None:
    bad = dict.fromkeys(range(4, 40), math.nan)
    with pytest.raises(UserError, match=r"going back 2 times did not help; the last checkpoint is .*step_000003; train with") as told:
        run(tmp_path, replace(CONFIG, max_rollbacks=2), model=spoilt(bad))
    assert "\n" not in str(told.value) and "its loss is nan" in str(told.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000003"]
    assert run(tmp_path, replace(CONFIG, max_rollbacks=2)).finished, "from the checkpoint, with a healthy model"


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"after step 0 the batches 0, 1, 2 could .* there is no checkpoint yet"):
        run(tmp_path, model=spoilt(dict.fromkeys(range(9), math.nan)))
