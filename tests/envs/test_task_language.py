"""Laws of what a task says and is told, for every registered task: captions, questions, actions as text."""

from typing import Any

import numpy as np
import pytest

from tests.envs.laws import demonstration
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.errors import UserError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda action: np.r_[action[:-1], 1.01], r"1.01\] is out of bounds.*\[-1, 1\]"),
        (lambda action: np.r_[-2.0, action[1:]], r"\[-2.0.*is out of bounds"),
        (lambda action: np.r_[np.nan, action[1:]], "nan.*out of bounds"),
        (lambda action: np.r_[np.inf, action[1:]], "inf.*out of bounds"),
        (lambda action: action[1:], r"shape \(\d+,\): expected"),
        (lambda action: action[None], r"shape \(1, \d+\): expected"),
    ],
)
def test_bad_action_is_refused_and_changes_nothing(task: MujocoTask, change: Any, message: str) -> None:
    task.reset(seed=0)
    state = task.get_state()
    with pytest.raises(UserError, match=message):
        task.step(change(np.zeros(len(task.action_names))))
    assert np.array_equal(task.get_state(), state)


def test_rounding_errors_at_the_bound_are_accepted(task: MujocoTask) -> None:
    size = len(task.action_names)
    task.reset(seed=0)
    state = task.get_state()
    task.step(np.full(size, np.nextafter(np.float32(1), np.float32(2))))
    beyond = task.get_state()
    task.set_state(state)
    task.step(np.ones(size))
    assert np.array_equal(task.get_state(), beyond)


def test_exact_action_text_round_trip(task: MujocoTask) -> None:
    for action in np.random.default_rng(0).uniform(-1, 1, (100, len(task.action_names))).astype(np.float32):
        text = task.describe_action(action)
        parsed = task.parse_action(text)
        assert parsed.dtype == np.float32
        np.testing.assert_allclose(parsed, action, atol=0.00051)
        assert task.describe_action(parsed) == text
        assert task.action_space.contains(parsed)


@pytest.mark.parametrize("form", ["words", "keys"])
def test_coarse_action_text_keeps_the_direction(task: MujocoTask, form: Any) -> None:
    for action in np.random.default_rng(0).uniform(-1, 1, (100, len(task.action_names))).astype(np.float32):
        text = task.describe_action(action, form)
        parsed = task.parse_action(text)
        assert task.describe_action(parsed, form) == text
        assert np.array_equal(np.sign(parsed), np.where(np.abs(action) >= 0.15, np.sign(action), 0.0))


def test_keys_and_words_of_the_axes_are_distinct(task: MujocoTask) -> None:
    keys = [key for axis in task.action_axes for key in axis.keys]
    words = [side for axis in task.action_axes for side in (axis.negative, axis.positive)]
    assert len(set(keys)) == len(keys) and len(set(words)) == len(words)
    assert all(" and " not in " ".join(side) for side in words)


def test_captions_read_back_as_the_truth(task: MujocoTask) -> None:
    seen: dict[str, set[str]] = {name: set() for name in task.language.attributes}
    for seed in range(100):
        _, info = task.reset(seed=seed, options={"variation": "all"})
        truth = task.language.attributes_of(task.language.facts(info["state"]))
        assert set(truth) <= set(task.language.attributes)
        assert task.language.read(info["caption"]) == truth
        assert info["caption"] == task.language.caption() == task.language.caption(info["state"])
        captions, goals = task.language.captions(), task.language.goals()
        assert len(set(captions)) == len(captions) >= 3 and len(set(goals)) == len(goals) >= 3
        for caption in captions:
            assert task.language.read(caption).items() <= truth.items(), caption
        goal_truth = task.language.attributes_of(task.language.facts(info["goal_state"]))
        for goal in goals:
            assert task.language.read(goal).items() <= goal_truth.items(), goal
        for name, value in truth.items():
            seen[name].add(value)
    for name, values in task.language.values.items():
        assert len(seen[name]) >= 2 and seen[name] <= set(values), name


def test_questions_about_attributes_are_true(task: MujocoTask) -> None:
    rng = np.random.default_rng(0)
    for seed in range(50):
        _, info = task.reset(seed=seed, options={"variation": "all"})
        truth = task.language.attributes_of(task.language.facts(info["state"]))
        pairs = task.language.questions(rng)
        assert len(pairs) > 2 * len(truth)
        for name, (_, value), (question, answer) in zip(truth, pairs[: 2 * len(truth) : 2], pairs[1::2], strict=False):
            assert value == truth[name]
            assert (answer == "yes") == (task.language.attributes[name].phrases[value] in question)
        assert np.array_equal(task.get_state(), info["state"])


def test_a_blind_guesser_scores_chance_on_yes_and_no(task: MujocoTask) -> None:
    """It knows how often each question of half of the episodes was answered with yes, and answers the other half."""
    rng = np.random.default_rng(0)
    asked: list[list[tuple[str, str]]] = []
    for seed in range(40):
        task.reset(seed=seed, options={"variation": "all"})
        states, _ = demonstration(task, seed, steps=40)
        pairs = task.language.episode_questions(rng, states)
        assert len(pairs) == len(states)
        asked.append([pair for pair in pairs if pair[1] in ("yes", "no")])
    known: dict[str, list[bool]] = {}
    for question, answer in sum(asked[::2], []):
        known.setdefault(question, []).append(answer == "yes")
    answers = [(np.mean(known.get(question, [0.5])) > 0.5) == (answer == "yes") for question, answer in sum(asked[1::2], [])]
    assert len(answers) > 100
    assert 0.4 < np.mean(answers) < 0.6


def test_what_if_is_answered_by_what_happens(task: MujocoTask) -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        _, info = task.reset(seed=seed)
        question, answer = task.language.what_if(rng, info["state"])
        assert np.array_equal(task.get_state(), info["state"])
        action = task.parse_action(question.removeprefix("what happens if you ").removesuffix("?"))
        for _ in range(2):
            task.advance(np.float64(np.round(action, 3)))
        assert task.language.change(info["state"], task.get_state()) == answer
