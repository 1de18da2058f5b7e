"""A world and its factors of variation: reset, step, look, and come back to a state.

Writes world.png: one frame as the task is by default, then five draws of all factors.
"""

import imageio.v3 as imageio
import numpy as np
import tyro

from worldmodel.envs import make_task


def main(task: str = "worldmodel/PushT-v0", seed: int = 0) -> None:
    """Show a task.

    Args:
        task: its id, or that of any other gymnasium environment.
        seed: of the episodes.
    """
    env = make_task(task, image_size=96)
    obs, info = env.reset(seed=seed)
    print(f"{task}: actions {', '.join(env.action_names)}; sees {obs['pixels'].shape}, feels {obs['proprio'].shape}")
    for name, factor in env.factors.items():
        print(f"  {name}: {factor.description}, by default {factor.default}")
    print("caption:", info["caption"])
    print("goal:", env.language.goals()[0])

    obs, reward, terminated, truncated, after = env.step(env.action_space.high)
    print("after one action:", env.language.change(info["state"], after["state"]), f"(reward {reward:.3f})")
    env.set_state(info["state"])  # back, to the last bit
    assert np.array_equal(env.get_state(), info["state"])

    frames = [env.render()] + [env.reset(seed=seed + i, options={"variation": "all"})[0]["pixels"] for i in range(1, 6)]
    imageio.imwrite("world.png", np.concatenate(frames, axis=1))
    print("world.png: the default, and five draws of all factors")
    env.close()


if __name__ == "__main__":
    tyro.cli(main)
