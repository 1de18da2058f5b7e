"""Scores of a trained model: their tables and curves by hand, and what its controllers are made of."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gymnasium import spaces

from worldmodel.agents import score_tables
from worldmodel.agents.model_score import goal_steps, parts_of, swept
from worldmodel.agents.protocol import Manifest
from worldmodel.agents.score import Outcomes, Score
from worldmodel.agents.world import actor_of
from worldmodel.checkpoint import Pretrained
from worldmodel.envs import make_task
from worldmodel.rollout import Rollout, RolloutConfig


def test_success_against_seconds_is_drawn_from_the_fastest_on_and_guided_from_the_policy() -> None:
    def scored(name: str, seconds: float, touched: bool) -> Score:
        return Score(name, [Outcomes([touched], [False], [None], [1.0], [1.0])], 1, seconds, 0.1, 1.0)

    alone = [scored("random", 0.0, False), scored("policy", 0.01, False), scored("guided", 0.2, True)]
    assert score_tables.success_against_seconds(alone) == {}
    more = [scored(swept("guided", 4), 0.05, False), scored("cem", 0.4, True), scored(swept("cem", 9), 0.1, False)]
    assert score_tables.success_against_seconds([*alone, *more]) == {
        "guided": ([0.01, 0.05, 0.2], [0.0, 0.0, 1.0]),
        "cem": ([0.1, 0.4], [0.0, 1.0]),
    }


def test_cells_of_a_row_by_hand() -> None:
    streams = [
        Outcomes([True, False], [True, False], [3, None], [0.1, 0.5], [0.1, 0.4]),
        Outcomes([True, True], [False, False], [4, 9], [0.3, 0.7], [0.1, 0.2]),
    ]
    score = Score("cem", streams, plans=8, seconds_per_plan=0.25, seconds_per_action=0.0125, seconds=3.0)
    assert score.success == [1.0, 0.5] and score.held == [0.5, 0.0]
    [row] = score_tables.rows([score])
    low, high = score.interval
    assert row == ["cem", "75.0%", f"{low:.1%} - {high:.1%}", "25.0%", *row[4:5], "0.400", "0.25", "0.0125"]
    assert row[4] == "{:.1%} - {:.1%}".format(*score.held_interval)
    assert len(row) == len(score_tables.HEADERS)


def test_goals_on_the_path_are_as_far_as_the_manifest_says() -> None:
    manifest = Manifest("toy", 16, "x", "path", 25, 50, 3.0, 0.1, 0, 0, 0, 0, ())
    assert goal_steps(manifest) == 25
    assert goal_steps(replace(manifest, goals="elsewhere", goal_offset=0)) is None


@pytest.mark.parametrize(
    ("sources", "taught"), [(["text", "goal"], True), (["spoken goal"], True), (["transition"], False), ([], False)]
)
def test_the_actor_is_there_where_goals_were_trained_on(sources: list[str], taught: bool) -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(action_horizon=5), device=torch.device("cpu"))
    actor = actor_of(Pretrained(model, None, None, {"sources": [{"source": "any", "kind": kind} for kind in sources]}), "toy")  # type: ignore[arg-type]
    assert (actor is not None) == taught
    assert actor is None or actor.horizon == 5


@pytest.mark.parametrize(("references", "jump"), [(2, 3), (0, 1)])
def test_true_futures_are_seen_as_often_as_the_model_dreams_them(references: int, jump: int) -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(references=references), device=torch.device("cpu"))
    manifest = Manifest("toy", 16, "x", "path", 25, 50, 3.0, 0.1, 0, 0, 0, 0, ())
    workers: Any = SimpleNamespace(action_space=spaces.Box(-1, 1, (2,)), block=2)
    parts = parts_of(Pretrained(model, None, None, {}), manifest, workers, RolloutConfig(jump=3))  # type: ignore[arg-type]
    assert parts.jump == jump


def test_actions_of_a_block_are_planned_as_text() -> None:
    """Each environment action of a model step has its own words, as in recorded episodes."""
    task = make_task("worldmodel/TwoRoom-v0", image_size=16)
    manifest = Manifest("worldmodel/TwoRoom-v0", 16, "x", "path", 25, 50, 3.0, 0.1, 0, 0, 0, 0, ())
    model: Any = SimpleNamespace(config=SimpleNamespace(references=0), device=torch.device("cpu"))
    workers: Any = SimpleNamespace(action_space=task.action_space, block=3, action_dim=6)
    parts = parts_of(Pretrained(model, None, None, {}), manifest, workers, RolloutConfig(action_form="text"))  # type: ignore[arg-type]
    block = torch.linspace(-1, 1, 6)
    assert isinstance(parts.dynamics, Rollout) and parts.dynamics.describe is not None
    assert parts.dynamics.describe(block) == "; ".join(task.describe_action(action.numpy()) for action in block.split(2))
    task.close()
