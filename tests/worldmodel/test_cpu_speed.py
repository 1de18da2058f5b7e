"""Ways to multiply on a CPU: the faster is found, kept, measured again where what was kept is damaged; float32 stays exact."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from worldmodel import cpu_speed, precision
from worldmodel.cpu_speed import CPUSpeed, Way, float32_products

CPU = torch.device("cpu")
EVEN: dict[Way, float] = {"default": 1.0, "onednn": 1.0, "bfloat16": 1.0}
FASTER: dict[Way, float] = {**EVEN, "bfloat16": 0.5}


class Clock:
    """A clock on which a way takes as long as it is said to, after a first time that is ten times as long."""

    def __init__(self) -> None:
        self.takes, self.now, self.runs = EVEN, 0.0, 0
        self.block = cpu_speed._run

    def __call__(self) -> float:
        return self.now

    def run(self, inputs: list[torch.Tensor], way: Way) -> list[torch.Tensor]:
        self.runs += 1
        self.now += self.takes[way] * (10 if self.runs < 5 else 1)
        return self.block(inputs, way)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    """Nothing is known yet, by this process or in the cache folder, and all ways exist."""
    found = Clock()
    monkeypatch.setattr(cpu_speed, "_run", found.run)
    monkeypatch.setattr(cpu_speed, "_can", lambda way: True)
    monkeypatch.setattr(cpu_speed, "ROWS", 1)
    monkeypatch.setattr(cpu_speed, "LENGTH", 4)
    monkeypatch.setattr(cpu_speed.measure, "__defaults__", (found,))
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path))
    cpu_speed._speed.cache_clear()
    yield found
    cpu_speed._speed.cache_clear()


def kept(home: Path) -> Path:
    (path,) = (home / "cache" / "cpu_speed").iterdir()
    return path


@pytest.mark.parametrize(
    ("takes", "dtype", "onednn"),
    [
        (EVEN, torch.float32, False),
        (FASTER, torch.bfloat16, False),
        ({**EVEN, "bfloat16": 2.0}, torch.float32, False),
        ({**EVEN, "bfloat16": 0.97}, torch.float32, False),  # alike: the simpler one
        ({**EVEN, "onednn": 0.5}, torch.float32, True),
        ({**EVEN, "onednn": 0.5, "bfloat16": 0.8}, torch.float32, True),
        ({**EVEN, "onednn": 0.8, "bfloat16": 0.5}, torch.bfloat16, True),
    ],
)
def test_the_faster_way_is_taken(clock: Clock, takes: dict[Way, float], dtype: torch.dtype, onednn: bool) -> None:
    clock.takes = takes
    assert precision.choose_dtype("auto", CPU) == dtype
    assert precision.choose_onednn(CPU) == onednn
    assert cpu_speed.cpu_speed().seconds == pytest.approx(takes), "at best, not at first"


def test_what_was_measured_is_not_measured_again(clock: Clock, tmp_path: Path) -> None:
    clock.takes = FASTER
    first = cpu_speed.cpu_speed()
    measured, clock.takes = clock.runs, EVEN
    assert cpu_speed.cpu_speed() == first
    cpu_speed._speed.cache_clear()  # as another process
    assert cpu_speed.cpu_speed() == first and clock.runs == measured
    assert kept(tmp_path).exists()


def test_other_threads_are_measured_apart(clock: Clock, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        for number, clock.takes in ((1, EVEN), (2, FASTER)):
            torch.set_num_threads(number)
            assert cpu_speed.cpu_speed().bfloat16 == (number == 2)
        torch.set_num_threads(1)
        assert not cpu_speed.cpu_speed().bfloat16
    finally:
        torch.set_num_threads(threads)
    assert len(list((tmp_path / "cache" / "cpu_speed").iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace("seconds", "minutes"),
        lambda text: text.replace('"bfloat16"', '"other"', 1),
        lambda text: json.dumps({"seconds": {**FASTER, "default": math.nan}, "error": EVEN}),
        lambda text: json.dumps({"seconds": {**FASTER, "default": "1"}, "error": EVEN}),
        lambda text: "\x00" * len(text),
    ],
)
def test_a_damaged_file_is_measured_anew(clock: Clock, tmp_path: Path, damage: Callable[[str], str]) -> None:
    expected = cpu_speed.cpu_speed()
    whole = kept(tmp_path).read_text()
    kept(tmp_path).write_text(damage(whole))
    cpu_speed._speed.cache_clear()
    before = clock.runs
    assert cpu_speed.cpu_speed() == expected and clock.runs > before
    assert kept(tmp_path).read_text() == whole


def test_a_cache_folder_that_cannot_be_written_is_no_mistake(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    assert cpu_speed.cpu_speed().seconds == EVEN


def test_rounds_end_with_the_budget(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_speed, "BUDGET", 7.0)
    cpu_speed.measure()
    assert clock.runs == 1 + 3 + 3 * 3  # exactly, for the errors, in turns: the third began after 6 seconds


def test_products_in_bfloat16_are_no_float32_products() -> None:
    quick = CPUSpeed(seconds={**EVEN, "onednn": 0.5}, error={"default": 5e-7, "onednn": 6e-7, "bfloat16": 3e-3})
    assert quick.onednn
    assert not CPUSpeed(quick.seconds, {**quick.error, "onednn": 3e-3}).onednn


def test_the_block_is_computed_as_it_should_be_in_every_way() -> None:
    found = cpu_speed.measure()
    assert found.error["default"] < cpu_speed.EXACT
    if precision.has_fast_bfloat16(CPU):
        assert 1e-3 < found.error["bfloat16"] < 5e-2
    else:
        assert found.seconds["bfloat16"] == found.error["bfloat16"] == math.inf and not found.bfloat16


def test_float32_products_are_sent_elsewhere_only_in_the_block() -> None:
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    with float32_products(False):
        assert switch.fp32_precision == before
    with pytest.raises(ZeroDivisionError), float32_products(True):
        assert switch.fp32_precision == "bf16"
        raise ZeroDivisionError
    assert switch.fp32_precision == before


def test_a_gpu_is_not_measured(clock: Clock) -> None:
    assert not precision.choose_onednn(torch.device("cuda")) and clock.runs == 0
