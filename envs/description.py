"""A task in words: what it is, says, takes and varies."""

from typing import TYPE_CHECKING

import numpy as np

from worldmodel.envs.variation import Factor, Value

if TYPE_CHECKING:  # a machine without OpenGL hears of it from make_task, not from an import of mujoco
    from worldmodel.envs.action_text import ActionAxis, ActionForm
    from worldmodel.envs.recording import Recording
    from worldmodel.envs.task import Task

STEPS = 3
"""Actions that are carried out before a change is told, or drawn."""


def recorded(recording: "Recording") -> str:
    """Describe how a quickstart records a task, and which goals it sets."""
    shares = ", ".join(f"{policy} {share:g}" for policy, share in recording.policies.items())
    return (
        f"{recording.episodes} episodes of {recording.max_steps} steps ({shares}); "
        f"goals {recording.goal_offset} steps ahead, in at most {recording.budget}"
    )


def words_of(axis: "ActionAxis") -> tuple[str, str, str]:
    """Return name, keys and words of one component of an action."""
    return axis.name, " ".join(axis.keys), f"{' '.join(axis.negative)}, {' '.join(axis.positive)}"


def sentences(task: "Task", rng: np.random.Generator) -> list[tuple[str, str]]:
    """Collect what the task says about its present state, its goal and an action: (kind, sentence), the kind once."""
    action, before = rng.uniform(-1, 1, len(task.action_names)).astype(np.float32), task.get_state()
    said = {"caption": task.language.captions(), "goal": task.language.goals()}
    said["question"] = [f"{question} {answer}" for question, answer in task.language.questions(rng)]
    forms: tuple[ActionForm, ...] = ("exact", "words", "keys")
    said["action"] = [task.describe_action(action, form) for form in forms]
    for _ in range(STEPS):
        task.advance(action)
    said["change"] = [task.language.change(before, task.get_state())]
    return [(kind if i == 0 else "", text) for kind, texts in said.items() for i, text in enumerate(texts)]


def describe(task: "Task") -> str:
    """Return the first line of the task's docstring."""
    return (type(task).__doc__ or "").strip().split("\n")[0].rstrip(".")


def text_of(value: Value) -> str:
    """Format a value of a factor."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def values_of(factor: Factor) -> str:
    """Describe the values that a factor takes, in words."""
    if factor.choices:
        return ", ".join(map(str, factor.choices))
    whole = ", whole" if factor.integer else ""
    return f"{factor.low:g} to {factor.high:g}{whole}{', new in every episode' if factor.per_episode else ''}"
