"""Parts that the scenes of several tasks are built from: kinds of geoms, patterns that a color tints, servos, a camera above."""

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

PLANE, SPHERE, CYLINDER, BOX = (int(getattr(mujoco.mjtGeom, f"mjGEOM_{name}")) for name in ("PLANE", "SPHERE", "CYLINDER", "BOX"))
SLIDE, HINGE = int(mujoco.mjtJoint.mjJNT_SLIDE), int(mujoco.mjtJoint.mjJNT_HINGE)
SEEN = {"contype": 0, "conaffinity": 0}
"""Of a geom that is drawn and touches nothing."""
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


def add_slides(spec: mujoco.MjSpec, body: mujoco.MjsBody, gain: float) -> None:
    """Let a body move along x and y, by joints of these names and servos of velocity whose force is `gain` per velocity error."""
    for name, axis in (("x", [1, 0, 0]), ("y", [0, 1, 0])):
        body.add_joint(name=name, type=SLIDE, axis=axis)
        add_servo(spec, name, [0.0, 0.0, -gain])


def add_top_camera(spec: mujoco.MjSpec, extent: float, height: float = 2.0) -> None:
    """Add the camera `top`, which looks straight down without perspective at a square of side `extent`."""
    projection = int(mujoco.mjtProjection.mjPROJ_ORTHOGRAPHIC)
    spec.worldbody.add_camera(name="top", pos=[0, 0, height], proj=projection, fovy=extent)


def set_planar_physics(spec: mujoco.MjSpec, timestep: float) -> None:
    """Set the physics of a scene in the plane: without gravity, by a fast integrator."""
    spec.option.timestep, spec.option.gravity = timestep, [0.0, 0.0, 0.0]
    spec.option.integrator = int(mujoco.mjtIntegrator.mjINT_IMPLICITFAST)
