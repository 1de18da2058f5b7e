"""What the joint loss is made of: the step's draws, what it is a mean over, and how its two parts are weighed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.batch import PackedBatch

HIGH_NOISE = 0.1
"""Flow time below which a frame is almost noise alone."""


@dataclass(frozen=True)
class FlowDraw:
    """What a step draws for its f frames."""

    t: Tensor
    """(f,) flow times, 1 for frames that are given clean."""
    noise: Tensor
    """(f, p, c) standard normal."""

    @classmethod
    def join(cls, draws: "Sequence[FlowDraw]") -> "FlowDraw":
        """The draws of consecutive batches as that of one."""
        return cls(torch.cat([draw.t for draw in draws]), torch.cat([draw.noise for draw in draws]))


@dataclass(frozen=True)
class LossCounts:
    """What the loss of a step is a mean over."""

    text: int
    """Predicted tokens."""
    frames: int
    """Noised frames."""
    tokens: int
    """Positions that are not padding."""

    @classmethod
    def of(cls, batch: PackedBatch) -> "LossCounts":
        """Of one batch."""
        return cls(len(batch.predicted_positions), len(batch.noised_frames), batch.tokens)

    def __add__(self, other: "LossCounts") -> "LossCounts":
        return LossCounts(self.text + other.text, self.frames + other.frames, self.tokens + other.tokens)


def readable(parts: dict[str, float]) -> dict[str, float]:
    """Parts of the loss, added up over a whole step, for people: `flow_high_noise` becomes the mean over frames below t = 0.1."""
    rest = {name: value for name, value in parts.items() if name not in ("flow_high_noise", "high_noise")}
    share = parts.get("high_noise", 0.0)
    return rest | ({"flow_high_noise": parts["flow_high_noise"] / share} if share > 0 else {})


def centered_weights(average: Tensor, alpha: float) -> Tensor:
    """Weights (2,) of the text and flow losses that give both the same size (arXiv 2603.03276, appendix D.2).

    With the averages L (2,), positive: c = (1 - alpha) L_text + alpha L_flow; weights c / L.
    """
    centre = (1 - alpha) * average[0] + alpha * average[1]
    return centre / average.clamp_min(1e-6)


def moving_average(average: Tensor, values: Sequence[float | Tensor | None], decay: float) -> Tensor:
    """Average (k,) moved towards k values; 0 stands for nothing seen yet, None for a value that this step does not have."""
    moved = []
    for old, value in zip(average, values, strict=True):
        new = old if value is None else torch.as_tensor(value, dtype=old.dtype, device=old.device)
        moved.append(torch.where(old > 0, torch.lerp(new, old, decay), new))
    return torch.stack(moved)
