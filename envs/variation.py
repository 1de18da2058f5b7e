"""Factors of variation: the named properties of a task that a reset may sample or set.

    env.reset(options={"variation": ["disc.color"], "variation_values": {"door.width": 0.5}})

Factors that are named nowhere keep their default. `"all"` in place of the list samples every factor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.errors import UserError

Value = float | str


@dataclass(frozen=True)
class Factor:
    """One property: either a choice among names, or a number in a closed interval."""

    description: str
    default: Value
    choices: tuple[str, ...] = ()
    """The allowed names; empty for a number."""
    low: float = 0.0
    high: float = 0.0
    integer: bool = False
    """A whole number, both bounds included."""
    per_episode: bool = False
    """Sampled at every reset, asked for or not, unless it is set by hand: the layout of a procedural world."""

    def sample(self, rng: np.random.Generator) -> Value:
        """Sample a value uniformly."""
        if self.choices:
            return self.choices[int(rng.integers(len(self.choices)))]
        if self.integer:
            return float(rng.integers(int(self.low), int(self.high) + 1))
        return float(rng.uniform(self.low, self.high))

    def validate(self, name: str, value: Any) -> Value:
        """Return `value` as str or float.

        Raises:
            UserError: if it is not one of the choices, or no number in [low, high].
        """
        if self.choices:
            if value not in self.choices:
                raise UserError(f"variation {name}={value!r}: expected one of {', '.join(self.choices)}")
            return str(value)
        is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not is_number or not self.low <= float(value) <= self.high:
            raise UserError(f"variation {name}={value!r}: expected a number in [{self.low}, {self.high}]")
        if self.integer and float(value) != int(value):
            raise UserError(f"variation {name}={value!r}: expected a whole number in [{self.low:.0f}, {self.high:.0f}]")
        return float(value)


def resolve(
    factors: Mapping[str, Factor],
    variation: str | Sequence[str],
    values: Mapping[str, Any],
    rng: np.random.Generator,
) -> dict[str, Value]:
    """Choose the value of every factor for one episode.

    Args:
        factors: All factors of the task by name.
        variation: Names of the factors to sample, or "all".
        values: Factors set by hand; these win over sampled ones.
        rng: Source of the samples; the draw of a factor does not depend on the order of `variation`.

    Raises:
        UserError: for an unknown factor or a value that it does not allow.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"variation_values={values!r}: expected a dictionary, factor name -> value")
    if isinstance(variation, str) and variation != "all":
        raise UserError(f"variation={variation!r}: expected a list of factor names or 'all'")
    sampled = set(factors) if "all" in variation else set(variation)
    unknown = sorted((sampled | set(values)) - set(factors))
    if unknown:
        raise UserError(f"unknown factor of variation {unknown[0]!r}: this task has {', '.join(factors)}")
    resolved: dict[str, Value] = {}
    for name, factor in factors.items():
        value = factor.sample(rng) if name in sampled or factor.per_episode else factor.default
        resolved[name] = factor.validate(name, values[name]) if name in values else value
    return resolved


SENSOR_FACTORS: dict[str, Factor] = {
    "sensor.pixel_noise": Factor("standard deviation of the camera's noise, 1 = white", 0.0, low=0.0, high=0.08),
    "sensor.proprio_noise": Factor("standard deviation of the noise on proprio", 0.0, low=0.0, high=0.05),
}
"""Factors that every task has."""
