"""A state probe that predicts the true state from a picture and knows no codec: it measures the dreams of every codec in the same way.

Ridge regression from two small pictures: 8 x 8 colors, and 16 x 16 of how far the frame is from the median picture, brought to a
sum of 1. The latter is where things are, whatever their color and size. Fitted on true frames of training episodes; on held-out
TwoRoom frames with discs of any color it is off by 0.004 standard deviations. It sees little of a busier scene, so its own error
on true frames stands beside every score.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.codec.frames import frames_to_float
from worldmodel.codec.probe import fit_probe
from worldmodel.codec.quality import choosing_frames

COLOURS, PLACES = 8, 16
"""Sides of the two small pictures."""
MEDIAN_FRAMES = 1024
"""Evenly spread frames that the median picture is taken of."""


class StateProbe:
    """Fitted on frames whose state is known.

    Args:
        frames: (m, h, w, 3) uint8, of whole episodes.
        features: (m, f) true variables.
        episode: (m,) episode of each frame.
    """

    def __init__(self, frames: np.ndarray, features: np.ndarray, episode: np.ndarray) -> None:
        self.scale = features.std(axis=0)
        """(f,) standard deviations; what does not vary is not judged."""
        self.varies = self.scale > 1e-4
        middle = np.median(frames[:: max(1, len(frames) // MEDIAN_FRAMES)], axis=0)
        self.median = torch.from_numpy(middle).permute(2, 0, 1).float() / 255
        """(3, h, w) in [0, 1]."""
        inputs, target = self._inputs(frames), features[:, self.varies] / self.scale[self.varies]
        choosing = choosing_frames(episode)
        self.probe = fit_probe(inputs[~choosing], target[~choosing], inputs[choosing], target[choosing])

    def _inputs(self, frames: np.ndarray, chunk: int = 1024) -> Tensor:
        """Map frames (m, h, w, 3) to inputs (m, 448)."""
        rows = []
        for start in range(0, len(frames), chunk):
            part = frames_to_float(frames[start : start + chunk])
            away = F.adaptive_avg_pool2d((part - self.median).abs().amax(1, keepdim=True), PLACES)  # (m, 1, 16, 16)
            share = away / (away.sum((2, 3), keepdim=True) + 0.01)
            rows.append(torch.cat([share.flatten(1), F.adaptive_avg_pool2d(part, COLOURS).flatten(1)], 1))
        return torch.cat(rows)

    def error(self, frames: np.ndarray, features: np.ndarray) -> float:
        """Compute the RMS error of the state read off frames (m, h, w, 3), in standard deviations of the true variables (m, f).

        0 is perfect; 1 is what the mean of the training frames would give.
        """
        target = features[:, self.varies] / self.scale[self.varies]
        return float(np.sqrt(np.square(self.probe.predict(self._inputs(frames)) - target).mean()))
