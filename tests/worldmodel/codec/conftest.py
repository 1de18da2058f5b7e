"""A toy world for the codec: a bright square that walks over a dark floor, one colour an episode."""

import numpy as np
import pytest
import torch

from worldmodel.codec.data import CodecData
from worldmodel.codec.ssl import JointConfig, MaskedConfig
from worldmodel.codec.training import CodecConfig
from worldmodel.codec.training_loop import FitConfig
from worldmodel.codec.vit import DecoderConfig, EncoderConfig

SIZE = 16
EPISODES = 16
LENGTH = 20
COLORS = np.array([[250, 60, 40], [60, 220, 80]], dtype=np.uint8)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def square_world() -> CodecData:
    rng = np.random.default_rng(0)
    frames = np.full((EPISODES * LENGTH, SIZE, SIZE, 3), 30, dtype=np.uint8)
    frames[:, :, 7:9] = 120
    corners = np.zeros((EPISODES * LENGTH, 2), dtype=np.int64)
    for episode in range(EPISODES):
        corner = rng.integers(0, SIZE - 4, size=2)
        for step in range(LENGTH):
            i = episode * LENGTH + step
            corners[i] = corner
            frames[i, corner[0] : corner[0] + 5, corner[1] : corner[1] + 5] = COLORS[episode % 2]
            corner = np.clip(corner + rng.integers(-2, 3, size=2), 0, SIZE - 5)
    episode = np.repeat(np.arange(EPISODES), LENGTH)
    held_out = episode >= EPISODES - 4
    icons = rng.integers(0, 256, size=(12, 2, 2, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    return CodecData(
        frames=frames,
        features=(corners / 6 - 1).astype(np.float32),
        episode=episode,
        train=np.flatnonzero(~held_out),
        validation=np.flatnonzero(held_out),
        feature_names=("row", "column"),
        extra=icons[:8],
        extra_validation=icons[8:],
    )


@pytest.fixture
def tiny_encoder() -> EncoderConfig:
    return EncoderConfig(image_size=SIZE, patch_size=8, channels=8, width=32, depth=1, heads=2)


@pytest.fixture
def tiny_config(tiny_encoder: EncoderConfig) -> CodecConfig:
    """A few steps of everything."""
    return CodecConfig(
        encoder=tiny_encoder,
        decoder=DecoderConfig(width=32, depth=1, heads=2),
        masked=MaskedConfig(steps=6),
        joint=JointConfig(steps=6, expander_width=16),
        decoder_steps=6,
        batch_size=8,
        extra_share=0.25,
        goal_features=3,
        fit=FitConfig(warmup=2, checkpoint_every=2, log_every=2),
    )
