"""Scenes are a pure function of their factors; the parts that they share do what they say."""

import mujoco
import numpy as np
import pytest

from worldmodel.envs import make_task, task_ids
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.scenery import add_pattern, add_servo, material_of


def model_of(task: MujocoTask) -> dict[str, np.ndarray]:
    """Every array of the model, and its lights and statistics."""
    model = task.model
    arrays = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    arrays |= {name: getattr(model.stat, name) for name in ("extent", "center", "meaninertia", "meanmass")}
    arrays["ambient"] = model.vis.headlight.ambient
    return {name: np.array(value) for name, value in arrays.items() if isinstance(value, (np.ndarray, float))}


@pytest.mark.parametrize("env_id", task_ids())
def test_nothing_of_an_earlier_episode_stays_in_the_model(env_id: str) -> None:
    used = make_task(env_id)
    for seed in range(5):
        used.reset(seed=seed, options={"variation": "all"})
    fresh = make_task(env_id)
    fresh.reset(seed=4, options={"variation": "all"})
    known = model_of(used)
    assert len(known) > 200
    assert [name for name, value in model_of(fresh).items() if not np.array_equal(value, known[name], equal_nan=True)] == []
    used.close()
    fresh.close()


@pytest.mark.parametrize("env_id", task_ids())
def test_geoms_are_drawn_where_the_factors_put_them(env_id: str) -> None:
    """MuJoCo takes the place of a geom for granted that was compiled at the origin of its body."""
    task = make_task(env_id)
    for seed in range(3):
        task.reset(seed=seed, options={"variation": "all"})
        model, data = task.model, task.data
        bodies = model.geom_bodyid
        expected = data.xpos[bodies] + np.einsum("nij,nj->ni", data.xmat[bodies].reshape(-1, 3, 3), model.geom_pos)
        np.testing.assert_allclose(data.geom_xpos, expected, atol=1e-9)
    task.close()


def test_a_pattern_is_a_texture_that_a_material_shows() -> None:
    spec = mujoco.MjSpec()
    shades = np.array([[255, 10, 255], [20, 255, 30]])
    add_pattern(spec, "stripes", shades, texrepeat=[2, 3])
    spec.worldbody.add_geom(name="floor", size=[1, 1, 1])
    model = spec.compile()
    texture = model.texture("stripes")
    assert (int(texture.height[0]), int(texture.width[0])) == (2, 3)
    assert model.tex_data.reshape(2, 3, 3)[..., 1].tolist() == shades.tolist()
    assert material_of(model, "plain") == -1
    material = model.material(material_of(model, "stripes"))
    assert material.name == "stripes" and material.texrepeat.tolist() == [2, 3]
    assert int(material.texid[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)]) == texture.id


def test_a_servo_gives_the_force_that_it_says() -> None:
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body()
    body.add_joint(name="x", type=int(mujoco.mjtJoint.mjJNT_SLIDE))
    body.add_geom(size=[0.1, 0.1, 0.1])
    add_servo(spec, "x", [1.0, -20.0, -3.0], gain=5.0)
    model = spec.compile()
    data = mujoco.MjData(model)
    data.ctrl[:], data.qpos[:], data.qvel[:] = 2.0, 0.1, 0.5
    mujoco.mj_forward(model, data)
    assert data.actuator_force == pytest.approx(5.0 * 2.0 + 1.0 - 20.0 * 0.1 - 3.0 * 0.5)
