"""The physics of the tasks stays what it was: data collected with one MuJoCo stays comparable with the next."""

import json

import mujoco
import numpy as np
import pytest

from tests.envs.reference_rollouts import EVERY, FILE, rollout
from worldmodel.envs import task_ids

REFERENCE = json.loads(FILE.read_text())
TOLERANCE = 1e-5
"""In metres and radians: above the rounding of different processors, far below what a picture shows."""


def test_every_task_has_a_reference() -> None:
    assert sorted(REFERENCE["rollouts"]) == task_ids()


@pytest.mark.parametrize(("env_id", "seed"), [(env_id, seed) for env_id, seeds in REFERENCE["rollouts"].items() for seed in seeds])
def test_physics_is_what_it_was(env_id: str, seed: str) -> None:
    now, then = rollout(env_id, int(seed)), np.array(REFERENCE["rollouts"][env_id][seed])
    assert now.shape == then.shape, f"{env_id}: the configuration has {now.shape[1]} numbers, had {then.shape[1]}"
    off = np.flatnonzero(np.abs(now - then).max(axis=1) > TOLERANCE)
    assert not len(off), (
        f"{env_id} moves differently from step {EVERY * (off[0] + 1)} on, by up to {np.abs(now - then).max():.2g}: MuJoCo is "
        f"{mujoco.__version__}, the reference was written with {REFERENCE['mujoco']}"
    )
