"""Noise of the sensors: a pure function of the state, so that a state always looks and feels the same."""

import zlib

import numpy as np


def noisy_frame(frame: np.ndarray, deviation: float, state: np.ndarray) -> np.ndarray:
    """Add Gaussian noise to every channel of a frame uint8 (H, W, 3).

    Args:
        frame: What a perfect camera would take.
        deviation: Standard deviation of the noise; 1 = from black to white.
        state: The physics state (n,) that decides the noise.
    """
    noise = _generator(state).standard_normal(frame.shape, dtype=np.float32)
    return np.clip(np.rint(frame + 255.0 * deviation * noise), 0, 255).astype(np.uint8)


def noisy_proprio(proprio: np.ndarray, deviation: float, state: np.ndarray) -> np.ndarray:
    """Add Gaussian noise to proprioception (p,), of the given standard deviation, decided by the state (n,)."""
    return proprio + deviation * _generator(state).standard_normal(proprio.shape)


def _generator(state: np.ndarray) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(np.ascontiguousarray(state).tobytes()))
