"""Factors and how a reset resolves them."""

import numpy as np
import pytest

from worldmodel.envs.variation import Factor, resolve
from worldmodel.errors import UserError

COLOR = Factor("a colour", "red", ("red", "green", "blue"))
SIZE = Factor("a size", 1.0, low=0.5, high=2.0)
FACTORS = {"color": COLOR, "size": SIZE}


def test_samples_cover_the_factor() -> None:
    rng = np.random.default_rng(0)
    assert {COLOR.sample(rng) for _ in range(50)} == {"red", "green", "blue"}
    sizes = [SIZE.sample(rng) for _ in range(200)]
    assert 0.5 <= min(sizes) < 0.6 and 1.9 < max(sizes) <= 2.0


def test_validate_returns_plain_values() -> None:
    assert type(SIZE.validate("size", np.float32(1.5))) is float
    assert type(SIZE.validate("size", 1)) is float
    assert type(COLOR.validate("color", np.str_("blue"))) is str


@pytest.mark.parametrize("value", [0.4, 2.1, float("nan"), "big", True, None, [1.0]])
def test_bad_numbers(value: object) -> None:
    with pytest.raises(UserError, match=r"variation size=.*expected a number in \[0.5, 2.0\]"):
        SIZE.validate("size", value)


@pytest.mark.parametrize("value", ["pink", 1, None, ["red"]])
def test_bad_names(value: object) -> None:
    with pytest.raises(UserError, match="variation color=.*expected one of red, green, blue"):
        COLOR.validate("color", value)


def test_resolve() -> None:
    def rng() -> np.random.Generator:
        return np.random.default_rng(1)

    assert resolve(FACTORS, (), {}, rng()) == {"color": "red", "size": 1.0}
    assert resolve(FACTORS, (), {"size": 2}, rng()) == {"color": "red", "size": 2.0}
    sampled = resolve(FACTORS, "all", {}, rng())
    assert sampled == resolve(FACTORS, ["all"], {}, rng()) == resolve(FACTORS, ["size", "color"], {}, rng())
    assert sampled["size"] != 1.0
    assert resolve(FACTORS, "all", {"color": "blue"}, rng()) == sampled | {"color": "blue"}


def test_unknown_factor() -> None:
    with pytest.raises(UserError, match="unknown factor of variation 'colour': this task has color, size"):
        resolve(FACTORS, ["colour"], {}, np.random.default_rng(0))


def test_whole_numbers() -> None:
    layout = Factor("a layout", 0.0, low=0, high=9, integer=True)
    rng = np.random.default_rng(0)
    assert {layout.sample(rng) for _ in range(200)} == set(range(10))
    assert layout.validate("layout", 3) == 3.0
    with pytest.raises(UserError, match=r"layout=2.5: expected a whole number in \[0, 9\]"):
        layout.validate("layout", 2.5)


def test_a_factor_of_every_episode_is_sampled_unasked() -> None:
    factors = {"layout": Factor("a layout", 0.0, low=0, high=99999, integer=True, per_episode=True), "size": SIZE}
    drawn = [resolve(factors, (), {}, np.random.default_rng(seed)) for seed in range(5)]
    assert len({values["layout"] for values in drawn}) == 5
    assert {values["size"] for values in drawn} == {SIZE.default}
    assert resolve(factors, (), {"layout": 7}, np.random.default_rng(0))["layout"] == 7.0
