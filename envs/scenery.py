"""Parts that the scenes of several tasks are built from: patterns that a color tints, and servos of joints."""

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

PLAIN = "plain"
"""Name of the pattern that is none."""


def add_pattern(spec: mujoco.MjSpec, name: str, shades: np.ndarray, **material: Any) -> None:
    """Add a texture and a material of the same name, in shades of white that the color of a geom tints.

    Args:
        spec: The scene.
        name: Of both.
        shades: uint8 (height, width), 255 = white.
        **material: For the material, e.g. `texrepeat`.
    """
    height, width = shades.shape
    texture = spec.add_texture(name=name, type=int(mujoco.mjtTexture.mjTEXTURE_2D), width=width, height=height, nchannel=3)
    texture.data = np.repeat(shades.astype(np.uint8)[..., None], 3, axis=-1).tobytes()
    spec.add_material(name=name, **material).textures[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = name


def material_of(model: mujoco.MjModel, pattern: str) -> int:
    """Return the id of a pattern's material for `geom_matid`; -1 for "plain"."""
    return -1 if pattern == PLAIN else int(model.material(pattern).id)


def add_servo(spec: mujoco.MjSpec, joint: str, bias: Sequence[float], gain: float = 1.0) -> mujoco.MjsActuator:
    """Add an actuator of the same name as its joint, whose force is `gain` * control + `bias` . (1, place, velocity)."""
    servo = spec.add_actuator(name=joint, target=joint, trntype=int(mujoco.mjtTrn.mjTRN_JOINT))
    servo.gainprm[0] = gain
    servo.biastype = int(mujoco.mjtBias.mjBIAS_AFFINE)
    servo.biasprm[:3] = bias
    return servo
