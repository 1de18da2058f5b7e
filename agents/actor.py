"""What is asked of a model that puts out actions: what to do next, and how far it is to a goal.

Axes: b problems, t frames of history, m pairs of frames, h model steps, a action of one model step (its env actions end to end), n
tokens of a frame, c channels.
"""

from typing import Protocol

from torch import Tensor


class Actor(Protocol):
    """A model with actions and steps to go as outputs; `worldmodel.acting.Acting`."""

    horizon: int
    """Model steps that it proposes."""

    def propose(self, frames: Tensor, actions: Tensor, goal: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Propose actions that lead to a goal in the time that is left.

        Args:
            frames: (b, t, n, c) latents of the history, the newest frame last.
            actions: (b, t - 1, a) actions that were carried out between them.
            goal: (b, n, c) latents of the goal frame.
            steps: (b,) env steps left; the actor brings them into the range that it was taught.

        Returns:
            Mean and standard deviation (b, h, a) of the actions of the next h model steps.
        """
        ...

    def steps_to_go(self, frames: Tensor, goal: Tensor) -> Tensor:
        """Predict the expected env steps (m,), within the range of training, from frames (m, n, c) to goals (m, n, c)."""
        ...
