"""Frozen rollouts of every task: what the physics did when they were written down.

After a change of a task that is meant to change its physics, write them anew:

    python -m tests.envs.reference_rollouts
"""

import json
from pathlib import Path

import mujoco
import numpy as np

from worldmodel.envs import make_task, task_ids

FILE = Path(__file__).with_name("reference_rollouts.json")
SEEDS = (0, 1, 2)
STEPS = 24
EVERY = 4


def rollout(env_id: str, seed: int) -> np.ndarray:
    """Positions (STEPS / EVERY, nq) under the demonstrator, every fourth step, with all factors sampled."""
    task = make_task(env_id)
    obs, info = task.reset(seed=seed, options={"variation": "all", "variation_values": {"sensor.proprio_noise": 0.0}})
    policy, positions = task.demonstrator(np.random.default_rng(seed)), []
    for step in range(1, STEPS + 1):
        # to three decimals: what is compared is the physics, not the last bit of the policy
        task.advance(np.round(policy(obs, info), 3))
        obs, info = obs | {"proprio": task.proprio()}, task.info()
        if step % EVERY == 0:
            positions.append(task.position_of(info["state"]).copy())
    task.close()
    return np.stack(positions)


def main() -> None:
    """Write the file."""
    rollouts = {env_id: {str(seed): np.round(rollout(env_id, seed), 9).tolist() for seed in SEEDS} for env_id in task_ids()}
    FILE.write_text(json.dumps({"mujoco": mujoco.__version__, "rollouts": rollouts}, indent=0).replace(",\n", ", ") + "\n")


if __name__ == "__main__":
    main()
