"""Every interval that is printed covers the truth about 95 times in 100: by the figures in the docs, and by a few draws here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.coverage.simulate import CASES, SLOW, coverage, rates_of_experts


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_docs_have_the_coverage_of_every_interval(root: Path) -> None:
    record = json.loads((root / "docs" / "results" / "coverage.json").read_text())
    assert record["draws"] >= 2000 and record["coverage"].keys() == CASES.keys(), "run python -m tests.coverage.simulate again"
    assert all(0.93 <= share <= 0.97 for share in record["coverage"].values()), record["coverage"]


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("isoflop")])
def test_intervals_cover_the_truth(name: str) -> None:
    draws = 400
    assert abs(coverage(CASES[name], draws, seed=1) - 0.95) <= 0.02 + 3.5 * np.sqrt(0.95 * 0.05 / draws)


def test_intervals_of_scaling_exponents_cover_the_truth() -> None:
    for name in (name for name in CASES if name.startswith("isoflop") and name not in SLOW):
        assert coverage(CASES[name], 150, seed=1) >= 0.87, name


def test_the_correlation_of_experts_is_not_made_smaller_by_noise() -> None:
    def covers(rng: np.random.Generator) -> bool:
        return rates_of_experts(rng, own=0.3, tokens=600, alike=60.0)

    assert coverage(covers, 80, seed=1) >= 0.82
