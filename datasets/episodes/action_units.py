"""Units in which a model reads and says actions: about -1 to 1, whatever the data's own are (pixels, degrees, meters)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

LEAST_SPREAD = 0.1
"""Standard deviation from which a number that lies in [-1, 1] is taken as it is."""


@dataclass(frozen=True)
class ActionUnits:
    """Center and scale of each of the a numbers of an environment action; the model's action is (action - center) / scale."""

    center: tuple[float, ...]
    """(a,) in the environment's units."""
    scale: tuple[float, ...]
    """(a,) in the environment's units, above 0."""

    def __post_init__(self) -> None:
        """Raise ValueError when there is not one finite center and one scale above 0 for every number."""
        if len(self.center) != len(self.scale) or not all(0 < scale < np.inf for scale in self.scale):
            raise ValueError(f"units have one scale above 0 for each center, got {self.center} and {self.scale}")

    @classmethod
    def of(cls, actions: Iterable[np.ndarray]) -> "ActionUnits":
        """Choose units by the actions of some episodes, arrays (t, a) of one width a.

        A number that stays within [-1, 1] and uses the range (standard deviation of `LEAST_SPREAD` or more), or is always the same,
        keeps its units. Any other becomes its distance from the mean in two standard deviations.

        Raises:
            ValueError: there is no episode.
        """
        taken = np.concatenate([np.asarray(each, np.float64) for each in actions])
        taken = taken[np.isfinite(taken).all(axis=1)]
        if not len(taken):
            return cls((0.0,) * taken.shape[1], (1.0,) * taken.shape[1])
        mean, spread = taken.mean(axis=0), taken.std(axis=0)
        usual = (np.abs(taken).max(axis=0) <= 1) & (spread >= LEAST_SPREAD)
        kept = usual | (spread <= 1e-6 * np.maximum(1, np.abs(mean)))
        return cls(tuple(np.where(kept, 0.0, mean).tolist()), tuple(np.where(kept, 1.0, 2 * spread).tolist()))

    @property
    def are_own(self) -> bool:
        """Whether they are the environment's own."""
        return not any(self.center) and set(self.scale) <= {1.0}

    def blocks(self, numbers: int) -> tuple[np.ndarray, np.ndarray]:
        """Return center and scale float32 (numbers,) of a block of environment actions.

        Raises:
            ValueError: so many numbers are no whole environment actions.
        """
        count, rest = divmod(numbers, len(self.center))
        if rest:
            raise ValueError(f"{numbers} numbers are no whole actions of {len(self.center)}")
        return np.tile(np.asarray(self.center, np.float32), count), np.tile(np.asarray(self.scale, np.float32), count)

    def to_model(self, actions: np.ndarray) -> np.ndarray:
        """Convert environment actions float32 (..., k * a) to the model's units."""
        if self.are_own:
            return actions
        center, scale = self.blocks(actions.shape[-1])
        return (actions - center) / scale


def in_units(actions: np.ndarray, units: ActionUnits | None) -> np.ndarray:
    """Convert environment actions float32 (..., k * a) to some units; None: they stay as they are."""
    return actions if units is None else units.to_model(actions)
