"""The ladder on a point in the plane: where all is well no rung is named, and where one rung alone is broken, that one is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.agents.toys import BOUNDS, SPEED, PointActor, PointCodec, PointDynamics, PointWorkers, far_manifest, to_frames, to_positions
from tests.datasets.toys import make_episode
from worldmodel.agents import ladder, rungs
from worldmodel.agents.cem import CEMConfig
from worldmodel.agents.controllers import EvaluateConfig, Parts, make_controllers
from worldmodel.agents.evaluate import evaluate
from worldmodel.agents.ladder import CHECKS, LadderRow, weakest
from worldmodel.agents.mpc import MPCConfig
from worldmodel.agents.objective import GoalCost
from worldmodel.agents.reader import ReaderConfig
from worldmodel.agents.rungs import Marked, MenuConfig
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.evaluation import DreamConfig, StateReader, draw_clips, dream_errors

TRAINING, HELD_OUT = list(range(24)), list(range(24, 32))
CONFIG = EvaluateConfig(CEMConfig(horizon=4), objective=GoalCost("slow_features"), mpc=MPCConfig(replan_every=1))
READER = ReaderConfig(steps=300, width=16, lr=5e-3, checks=10)


class Codec(PointCodec):
    """Sees the whole state, in a grid of one token."""

    grid = (1, 1)

    def encode_frames(self, frames: np.ndarray) -> Tensor:
        return self.seen(to_positions(frames))

    def encode(self, frames: Tensor) -> Tensor:
        return self.seen(super().encode(frames))

    def seen(self, positions: Tensor) -> Tensor:
        return positions


class HalfBlind(Codec):
    """Does not see how high the point is."""

    def seen(self, positions: Tensor) -> Tensor:
        return positions * torch.tensor([1.0, 0.0])


class NoWay(Codec):
    """Its goal features say nothing of the way."""

    def goal_features(self, latents: Tensor) -> Tensor:
        return super().goal_features(latents) * 0


class Still(PointDynamics):
    """Believes that actions do not matter."""

    def rollout(self, state: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
        return super().rollout(state, candidates * 0, generator)


class Backwards(PointDynamics):
    """Goes the other way."""

    def rollout(self, state: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
        return super().rollout(state, -candidates, generator)


class Drifting(PointDynamics):
    """Right one step ahead and lost from there."""

    def rollout(self, state: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
        future = super().rollout(state, candidates, generator)
        future[:, :, 1:] = 2 * torch.rand(future[:, :, 1:].shape, generator=torch.Generator().manual_seed(0)) - 1
        return future


class Lazy(PointActor):
    """Proposes to stay."""

    def propose(self, *asked: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = super().propose(*asked)
        return mean * 0, std * 0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Smooth random walks of the point."""
    episodes = []
    for i in range(len(TRAINING) + len(HELD_OUT)):
        rng = np.random.default_rng(i)
        held = np.repeat(rng.uniform(-1, 1, (6, 2)), 4, axis=0)  # each action for four steps
        places = np.clip(rng.uniform(-0.6, 0.6, 2) + SPEED * np.concatenate([np.zeros((1, 2)), held]).cumsum(axis=0), -1, 1)
        actions = np.diff(places, axis=0) / SPEED
        episodes.append(
            make_episode(
                i, 24, 1, frames=to_frames(places), features=places.astype(np.float32), actions=actions.astype(np.float32).clip(-1, 1)
            )
        )
    path = tmp_path_factory.mktemp("ladder") / "toy.h5"
    write_episodes(path, episodes, {"env_id": PointWorkers.env_id, "seed": 0, "feature_names": ["x", "y"]})
    return EpisodeStore(path, in_memory=True)


def climb(
    store: EpisodeStore,
    codec: Any = None,
    dynamics: Any = None,
    actor: Any = None,
    config: EvaluateConfig = CONFIG,
    names: Any = ("random", "policy", "cem"),
) -> list[LadderRow]:
    """All rungs, with a toy in the place of each part that is not given."""
    codec, dynamics = codec or Codec(), dynamics or PointDynamics()
    marked, problems = Marked("Point", 3), far_manifest(8)
    parts = Parts(BOUNDS, PointWorkers(), codec, dynamics, actor or PointActor(), goal_steps=10)  # type: ignore[arg-type]
    reader = rungs.codec_rung(marked, codec, store, TRAINING, HELD_OUT, READER)
    errors = dream_errors(dynamics, codec, store, HELD_OUT, BOUNDS.block, DreamConfig(64, 2, 4), reader)
    rungs.dynamics_rung(marked, errors)
    rungs.ranking_rung(marked, problems, parts, config, MenuConfig(problems=6))
    scores = rungs.search_rung(marked, problems, parts, config)
    scores += evaluate(problems, make_controllers(config, parts, names), parts.workers, config, progress=False)
    rungs.result_rung(marked, scores)
    return marked.rows


def test_where_all_is_well_no_rung_is_named(store: EpisodeStore) -> None:
    rows = climb(store)
    verdict = weakest(rows)
    assert verdict.rung is None and verdict.sentence == "every rung that was measured holds"
    assert {row.rung for row in rows} == {"codec", "dynamics", "ranking", "search", "result"}
    assert all(row.task == "Point" and row.seed == 3 for row in rows)
    assert all(check.number(rows) is not None for check in CHECKS), "each check finds its rows"


@pytest.mark.parametrize(
    ("rung", "said", "broken"),
    [
        ("codec", "keeps on the tokens", {"codec": HalfBlind()}),
        ("dynamics", "copying's", {"dynamics": Backwards()}),
        ("dynamics", "shuffled over true", {"dynamics": Still()}),
        ("ranking", "cost of true futures", {"codec": NoWay()}),
        ("ranking", "left with dreamt futures", {"dynamics": Drifting()}),
        ("search", "with the true distance", {"config": replace(CONFIG, planner=CEMConfig(4, 1, 1, 1, std=0.05), mpc=MPCConfig(2))}),
        ("result", "of what the oracle touches", {"actor": Lazy(), "names": ("random", "policy")}),
    ],
)
def test_the_rung_that_alone_is_broken_is_named(store: EpisodeStore, rung: str, said: str, broken: dict[str, Any]) -> None:
    verdict = weakest(climb(store, **broken))
    assert verdict.rung == rung and f"{rung} is broken" in verdict.sentence and said in verdict.sentence
    below = [check for check in CHECKS if check.rung == rung and said in check.what]
    assert below and all(check.mend in verdict.sentence for check in below)


def numbers(**changes: float) -> list[LadderRow]:
    """Rows of a ladder in which everything holds, but for what is changed."""
    values = dict(r2=0.99, error=0.1, shuffled=3.0, true=0.9, dreamt=0.85, distance=1.0, cost=0.95, policy=0.9, held=0.85) | changes

    def row(rung: Any, name: str, value: float, control: float | None = None) -> LadderRow:
        return LadderRow("Point", 0, rung, name, value, control)

    return [
        row("codec", f"{ladder.OF_GOAL}x", 0.99, 1.0),
        row("codec", f"{ladder.OF_GOAL}y", values["r2"], 1.0),
        row("codec", f"{ladder.OF_GOAL}unseen", 0.01, 0.49),
        row("codec", f"{ladder.NOT_OF_GOAL}colour", 0.2, 1.0),
        row("codec", f"{ladder.LINEAR}x", 0.3, 1.0),
        row("dynamics", f"{ladder.STEP_AHEAD}1", values["error"], 0.2),
        row("dynamics", f"{ladder.STEP_AHEAD}10", 9.0, 0.2),
        row("dynamics", ladder.SHUFFLED, values["shuffled"], 1.0),
        row("ranking", ladder.TRUE_FUTURES, values["true"], 0.0),
        row("ranking", ladder.DREAMT_FUTURES, values["dreamt"], values["true"]),
        row("search", ladder.TRUE_DISTANCE, values["distance"]),
        row("search", ladder.MODEL_COST, values["cost"], values["distance"]),
        row("result", f"{ladder.TOUCHED}oracle_true_distance", 1.0),
        row("result", f"{ladder.TOUCHED}oracle", 1.0),
        row("result", f"{ladder.TOUCHED}random", 0.1),
        row("result", f"{ladder.TOUCHED}policy", values["policy"]),
        row("result", f"{ladder.HELD}policy", values["held"]),
        row("result", f"{ladder.TOUCHED}cem", 0.3),
        row("result", f"{ladder.HELD}cem", 0.0),
    ]


@pytest.mark.parametrize(
    ("index", "name", "good", "weak", "broken"),
    [
        (0, "r2", 0.95, 0.94, 0.79),
        (1, "error", 0.13, 0.14, 0.21),
        (2, "shuffled", 1.5, 1.49, 1.09),
        (3, "true", 0.9, 0.59, 0.29),
        (4, "dreamt", 0.73, 0.71, 0.44),
        (5, "distance", 0.9, 0.89, 0.59),
        (6, "cost", 0.8, 0.79, 0.49),
        (7, "policy", 0.8, 0.79, 0.49),
        (8, "held", 0.73, 0.71, 0.44),
    ],
)
def test_each_number_has_its_two_limits(index: int, name: str, good: float, weak: float, broken: float) -> None:
    others = {"dreamt": 0.9, "cost": 0.9} if name in ("true", "distance") else {"held": good} if name == "policy" else {}
    assert weakest(numbers(**{name: good, **others})).rung is None
    for value, word in ((weak, "weak"), (broken, "broken")):
        verdict = weakest(numbers(**{name: value, **others}))
        assert verdict.rung == CHECKS[index].rung
        assert (
            verdict.sentence.startswith(f"{verdict.rung} is {word}: {CHECKS[index].what} is ")
            and CHECKS[index].mend in verdict.sentence
        )


def test_what_the_reader_errs_is_not_the_dreams() -> None:
    floor = LadderRow("Point", 0, "dynamics", ladder.TRUE_FRAMES, 0.12, None)
    assert ladder.below_copying([*numbers(error=0.13), floor]) == pytest.approx(16 / 5)  # 0.16 and 0.05 beyond it
    assert weakest([*numbers(error=0.16), floor]).rung is None and weakest(numbers(error=0.16)).rung == "dynamics"
    assert weakest([*numbers(error=0.21), floor]).rung == "dynamics"
    assert ladder.below_copying([*numbers(error=0.3), replace(floor, value=0.2)]) is None, "copying errs no more than the reader"


def test_a_broken_rung_goes_before_a_weak_one_below_it_and_the_lowest_before_those_above() -> None:
    assert weakest(numbers(r2=0.9, distance=0.2)).rung == "search"
    assert weakest(numbers(r2=0.9, distance=0.8)).rung == "codec"
    assert weakest(numbers(error=0.5, true=0.1, distance=0.2)).rung == "dynamics"


def test_the_best_controller_is_the_one_that_stays() -> None:
    rows = [row for row in numbers() if "cem" not in row.name]
    passing = [
        LadderRow("Point", 0, "result", f"{ladder.TOUCHED}cem", 1.0, None),
        LadderRow("Point", 0, "result", f"{ladder.HELD}cem", 0.7, None),
    ]
    assert ladder.best_of_model([*rows, *passing]) == ("policy", 0.9)  # and holds 0.85
    assert ladder.share_held([*rows, *passing]) == pytest.approx(0.85 / 0.9)
    assert ladder.best_of_model([*rows, passing[0]]) == ("policy", 0.9) and ladder.best_of_model(passing) == ("cem", 1.0)


def test_what_was_not_measured_is_not_named() -> None:
    rows = [row for row in numbers(distance=0.1) if row.rung != "search" and "oracle" not in row.name]
    assert weakest(rows).rung is None
    assert weakest([]).rung is None


def test_rows_are_what_results_hold() -> None:
    [row] = ladder.rows_to_json([LadderRow("Point", 1, "codec", "x", 0.5, None)])
    assert row == {"task": "Point", "seed": 1, "rung": "codec", "name": "x", "value": 0.5, "control": None}
    assert ladder.cells([LadderRow("Point", 1, "codec", "x", 0.5, None), LadderRow("Point", 1, "search", "y", 0.25, 0.125)]) == [
        ["codec", "x", "0.500", ""],
        ["search", "y", "0.250", "0.125"],
    ]


def test_the_codecs_rows_by_variable(store: EpisodeStore) -> None:
    rows = {row.name: row for row in climb(store, HalfBlind()) if row.rung == "codec"}
    assert set(rows) == {f"{kind}{name}" for kind in (ladder.OF_GOAL, ladder.LINEAR) for name in "xy"}
    assert rows[f"{ladder.OF_GOAL}x"].value > 0.98 and rows[f"{ladder.LINEAR}x"].value > 0.95
    assert rows[f"{ladder.OF_GOAL}y"].value < 0.2 and rows[f"{ladder.LINEAR}y"].value < 0.2
    assert all(row.control is not None and row.control > 0.98 for row in rows.values()), "the frames show both"


@pytest.mark.parametrize(
    ("env_id", "of_goal", "other"),
    [
        ("worldmodel/PushT-v0", "block.cos", "pusher.x"),
        ("worldmodel/Ant-v0", "torso.x", "torso.height"),
        ("worldmodel/Cube-v0", "cube0.z", "hand.x"),
        ("worldmodel/Reacher-v0", "elbow.sin", "hand.y"),
    ],
)
def test_variables_of_the_goal(env_id: str, of_goal: str, other: str) -> None:
    assert rungs.is_of_goal(env_id, of_goal) and not rungs.is_of_goal(env_id, other)
    assert rungs.is_of_goal("worldmodel/TwoRoom-v0", "disc.x")


def test_the_names_of_goal_variables_are_the_tasks_own() -> None:
    from worldmodel.envs import make_task

    for env_id, beginnings in rungs.GOAL_VARIABLES.items():
        task = make_task(env_id)
        assert all(any(name.startswith(beginning) for name in task.feature_names) for beginning in beginnings)
        task.close()


def test_rank_correlations_by_hand() -> None:
    true = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0001]])
    found = np.array([[10.0, 20.0, 30.0, 40.0], [3.0, 2.0, 1.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_allclose(rungs.rank_correlations(found, true, 0.01), [1.0, -1.0])
    assert len(rungs.rank_correlations(found[2:], true[2:], 0.01)) == 0


def test_a_menu_without_any_order_gives_no_rows() -> None:
    class Stuck(PointWorkers):
        def roll(self, states: Any, actions: Any, *rest: Any, **more: Any) -> Any:
            return super().roll(states, actions * 0, *rest, **more)

    marked = Marked("Point", 0)
    parts = Parts(BOUNDS, Stuck(), Codec(), PointDynamics())  # type: ignore[arg-type]
    rungs.ranking_rung(marked, far_manifest(4), parts, CONFIG, MenuConfig(problems=4))
    assert marked.rows == []


def test_ranking_rows_stand_beside_each_other() -> None:
    marked = Marked("Point", 0)
    parts = Parts(BOUNDS, PointWorkers(), Codec(), Drifting())  # type: ignore[arg-type]
    rungs.ranking_rung(marked, far_manifest(4), parts, CONFIG, MenuConfig(problems=4))
    rows = {row.name: row for row in marked.rows}
    assert rows[ladder.TRUE_FUTURES].value > 0.95 and rows[ladder.TRUE_FUTURES].control == 0
    assert abs(rows[ladder.DREAMT_FUTURES].value) < 0.5
    assert rows[ladder.DREAMT_FUTURES].control == rows[ladder.TRUE_FUTURES].value


def test_scores_that_are_known_are_not_measured_again() -> None:
    marked, problems = Marked("Point", 0), far_manifest(3)
    parts = Parts(BOUNDS, PointWorkers(), Codec(), PointDynamics())  # type: ignore[arg-type]
    first = rungs.search_rung(marked, problems, parts, CONFIG)
    again = rungs.search_rung(marked, problems, parts, CONFIG, {score.name: score for score in first})
    assert again[0] is first[0] and again[1] is first[1]
    assert [row.value for row in marked.rows[:2]] == [row.value for row in marked.rows[2:]]


def test_errors_at_once_are_those_of_the_frame_k_steps_ahead(store: EpisodeStore) -> None:
    def jump(frames: Tensor, between: Tensor, ahead: Tensor) -> Tensor:
        assert between.shape[1] == frames.shape[1] - 1
        moved = ahead.unflatten(-1, (BOUNDS.block, 2)).sum(dim=(1, 2)) * SPEED
        return frames[:, -1] + moved[:, None] + (0.5 if ahead.shape[1] == 4 else 0.0)

    scale = np.array([0.25, 1.0])
    reader = StateReader(lambda latents: latents[:, 0].double().numpy(), ("x", "y"), np.array([0, 1]), scale)
    config = DreamConfig(32, 2, 4)
    found = rungs.errors_at_once(jump, Codec(), store, HELD_OUT, BOUNDS.block, config, reader, steps=(1, 2, 4, 8))  # type: ignore[arg-type]
    assert list(found) == [1, 2, 4], "8 is farther than the clips go"
    assert found[1] < 0.05 and found[2] < 0.05  # frames hold places rounded to 0.01
    assert found[4] == pytest.approx(np.sqrt((2.0**2 + 0.5**2) / 2), abs=0.05)
    marked = Marked("Point", 0)
    errors = dream_errors(PointDynamics(), Codec(), store, HELD_OUT, BOUNDS.block, config, reader)  # type: ignore[arg-type]
    rungs.dynamics_rung(marked, errors, found)
    rows = {row.name: row for row in marked.rows}
    assert rows[ladder.TRUE_FRAMES].value == errors.state["true_frames"][0][0] < rows[f"{ladder.STEP_AHEAD}4"].control
    assert rows["state error, 4 steps at once"].value == found[4]
    assert rows["state error, 4 steps at once"].control == rows[f"{ladder.STEP_AHEAD}4"].value
    assert len(draw_clips(store, HELD_OUT, BOUNDS.block, config)) == 32


def test_impossible_settings_are_refused() -> None:
    for field, value in (("problems", 1), ("candidates", 2), ("seed", -1)):
        with pytest.raises(ValueError, match=f"menu.{field} is {value}"):
            MenuConfig(**{field: value})
