"""Environments that fail in some or in all of their episodes, registered when this file is imported, in workers too."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

NAMES = "tests.datasets.collection.failing:"
FLAKY, BROKEN = f"{NAMES}Flaky-v0", f"{NAMES}Broken-v0"
SAFE = 10
"""Numbers below are those that an adapter tries an environment with."""


class Flaky(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point; of the numbers it is reset with, every `every`-th lets it fail at the third step, whatever came before it."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode: str = "rgb_array", every: int = 4) -> None:
        self.render_mode, self.every = render_mode, every
        self.broken = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.number, self.steps = seed or 0, 0
        self.place = self.np_random.uniform(-1, 1, 2)
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.broken or (self.number >= SAFE and self.number % self.every == 0 and self.steps == 3):
            self.broken = True  # for ever: whoever goes on with this object spoils the episodes after
            raise RuntimeError(f"the point\nfell off in world {self.number}")
        self.place = np.clip(self.place + 0.1 * action, -2, 2)
        return self.place.astype(np.float32), 0.0, False, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        picture = np.zeros((32, 32, 3), np.uint8)
        x, y = ((self.place + 2) * 7).astype(int)
        picture[y : y + 3, x : x + 3] = 255
        return picture


gymnasium.register("Flaky-v0", Flaky)
gymnasium.register("Broken-v0", Flaky, kwargs={"every": 1})
