"""A plan that is carried out in the model's dream, before anything is done in the world."""

from dataclasses import dataclass

import numpy as np
import torch

from worldmodel.agents.controllers import Name
from worldmodel.agents.dream_session import Dream, Recent
from worldmodel.agents.simulator import History
from worldmodel.agents.workers import TaskWorkers
from worldmodel.agents.world import World, actor_of

MOST_STEPS = 16
"""Model steps of a plan at most."""


@dataclass(frozen=True)
class ImaginedPlan:
    """What a controller did in a dream."""

    frames: np.ndarray
    """uint8 (n + 1, height, width, 3): the frame it began with, as the codec shows it, then what was dreamt."""
    actions: np.ndarray
    """float32 (n, k, a): k environment actions of each model step."""
    to_go: float | None
    """Environment actions from the last frame to the goal, as the model says; None where it was not taught to say."""


def ways_to_plan(world: World, env_id: str) -> tuple[Name, ...]:
    """Return the controllers that can plan a task with a model alone, the best first."""
    return ("cem",) if actor_of(world, env_id) is None else ("guided", "policy", "cem")


def imagine_plan(
    world: World, workers: TaskWorkers, seen: Recent, goal: np.ndarray, way: Name, seed: int = 0, most: int = MOST_STEPS
) -> ImaginedPlan:
    """Let a controller drive the dream that begins with real frames towards a goal, until the model says that it is there.

    Args:
        world: the model; it dreams, and it is what the controller plans with.
        workers: of the task.
        seen: real frames and the actions between them.
        goal: frame uint8 (height, width, 3).
        way: controller, as of `World.plan`.
        seed: of dream and search.
        most: model steps after which the plan ends.

    Raises:
        UserError: the model does not know the task, or predicts NaN; the controller cannot act with this model.
    """
    controller, actor = world.controller(workers, way, seed), actor_of(world, workers.env_id)
    controller.reset(goal[None], [seed])
    wanted = world.codec.encode_frames(goal[None])
    dream = Dream(world, workers.env_id, seed)
    dream.begin(seen)
    frames, taken, to_go = [dream.frame()], np.zeros((0, workers.action_dim), np.float32), None
    while len(taken) < most:
        for block in controller.act(History(np.stack(frames)[None], taken[None]))[0][: most - len(taken)]:
            dream.step(torch.from_numpy(block))
            frames.append(dream.frame())
            taken = np.concatenate([taken, block[None]])
        if actor is not None:
            to_go = float(actor.steps_to_go(dream.recent.newest[None], wanted)[0])
            if to_go < workers.block:
                break
    return ImaginedPlan(np.stack(frames), taken.reshape(len(taken), workers.block, -1), to_go)
