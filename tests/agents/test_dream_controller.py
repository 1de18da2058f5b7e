"""What a page asks for happens to both sides, what it is told is true, and a plan that was imagined is the one that is carried out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.test_dream_session import BLOCK, CARD, SIZE, TASK, codec
from tests.driving import picture, run
from tests.worldmodel import toys
from worldmodel.agents.dream_controller import DreamController
from worldmodel.agents.dream_plan import MOST_STEPS, ImaginedPlan, imagine_plan, ways_to_plan
from worldmodel.agents.dream_session import Dream, DreamSession
from worldmodel.agents.workers import TaskWorkers
from worldmodel.agents.world import World
from worldmodel.datasets.video import decode
from worldmodel.envs import make_task

TAUGHT = CARD | {"sources": [{"source": "goal", "kind": "goal"}]}


@pytest.fixture(scope="module")
def world() -> World:
    return World(toys.stem_model(action_dim=BLOCK * SIZE), toys.tokenizer(), codec(2), TAUGHT)


@pytest.fixture(scope="module")
def workers() -> Iterator[TaskWorkers]:
    with TaskWorkers(TASK, toys.IMAGE, BLOCK, workers=0) as workers:
        yield workers


@pytest.fixture
def start(world: World, workers: TaskWorkers) -> Iterator[Callable[..., DreamController]]:
    task = make_task(TASK, image_size=toys.IMAGE)
    yield lambda **settings: DreamController(DreamSession(world, task, TASK, **settings), workers)
    task.close()


def ask(controller: DreamController, what: str, **more: Any) -> dict[str, Any]:
    controller.handle_message({"do": what, **more})
    return controller.status()


def test_keys_and_words_drive_both_sides_a_model_step_at_a_time(start: Callable[..., DreamController]) -> None:
    controller = start()
    before = controller.status()
    assert (before["step"], before["dreamt"], before["distance"]) == (0, 0, 0.0) and not controller.moving
    ask(controller, "keys", keys=["d"], little=True)
    assert run(controller, 3) == 3
    held = ask(controller, "keys", keys=[])
    assert (held["step"], held["dreamt"], held["action"]) == (3, 3, "move a little right") and not controller.moving
    assert held["truth"] != before["truth"] and held["dream"] != before["dream"] and held["distance"] > 0
    assert np.array_equal(picture(held["truth"]), controller.session.now.truth), "a frame comes without loss"
    ask(controller, "say", text="move up", steps=2)
    assert run(controller) == 2 and controller.status()["step"] == 5
    assert "fly" in ask(controller, "say", text="fly")["note"] and controller.status()["failed"]
    start_height = controller.session.task.position_of(controller.session.task.get_state())
    ask(controller, "say", text="move down", steps=1)
    run(controller)
    assert controller.session.task.position_of(controller.session.task.get_state())[1] < start_height[1]


def test_pause_single_steps_and_speed(start: Callable[..., DreamController]) -> None:
    controller = start()
    ask(controller, "keys", keys=["d"])
    assert ask(controller, "pause", on=True)["paused"] and not controller.moving
    assert ask(controller, "step")["step"] == 1 and not controller.moving
    assert not ask(controller, "pause", on=False)["paused"] and controller.moving
    controller.release()
    assert not controller.moving and ask(controller, "clock", always=True)["always"] and controller.moving
    usual = controller.session.task.step_seconds * BLOCK
    ask(controller, "speed", times=1)
    assert controller.tick_seconds == pytest.approx(usual)
    ask(controller, "speed", times=3)
    assert controller.tick_seconds == pytest.approx(usual / 3)
    assert "speed is one of 1, 2, 3" in ask(controller, "speed", times=1000)["note"]


def test_a_new_start_and_a_new_episode(start: Callable[..., DreamController]) -> None:
    controller = start()
    ask(controller, "say", text="move right", steps=4)
    run(controller)
    again = ask(controller, "restart")
    assert (again["step"], again["dreamt"], again["distance"], again["still"]) == (4, 0, 0.0, 0.0)
    ask(controller, "see", question="where is the disc?")
    answers = controller.status()["answers"]
    assert answers["question"] and answers["truth"] == answers["dream"], "both frames are the real one"
    assert ask(controller, "see")["answers"]["caption"] == controller.session.caption
    about = controller.about()["about"]
    assert [point["step"] for point in about["curve"]] == [0, 1, 2, 3, 4, 4] and about["block"] == BLOCK
    fresh = ask(controller, "new")
    assert fresh["step"] == 0 and fresh["answers"] is None and fresh["truth"] != again["truth"]
    assert len(controller.about()["about"]["curve"]) == 1


def test_an_imagined_plan_is_what_is_carried_out(
    world: World, workers: TaskWorkers, start: Callable[..., DreamController], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.agents.dream_controller.imagine_plan", lambda *given: imagine_plan(*given, most=3))
    controller = start(seed=1)
    assert controller.about()["about"]["ways"] == ways_to_plan(world, TASK) == ("guided", "policy", "cem")
    ask(controller, "say", text="move right", steps=2)
    run(controller)
    assert "no plan from this frame" in ask(controller, "carry_out")["note"]
    plan = ask(controller, "imagine", way="policy")["plan"]
    imagined = controller._plan
    assert imagined is not None and plan["way"] == "policy" and plan["steps"] == len(imagined.actions) <= 3
    again = Dream(world, TASK, seed=1)
    again.begin(controller.session.seen)
    for actions in imagined.actions:
        again.step(torch.from_numpy(actions.reshape(-1)))
    ask(controller, "carry_out")
    shown = [controller.session.now.dream]
    done = []
    step = controller.session.step
    monkeypatch.setattr(controller.session, "step", lambda actions: done.append(actions) or step(actions))
    while controller.moving:
        controller.tick()
        shown.append(controller.session.now.dream)
    assert np.array_equal(np.stack(done), imagined.actions)
    assert np.array_equal(np.stack(shown), imagined.frames), "the dream beside the simulator is the one that was imagined"
    assert torch.equal(controller.session.dream.recent.newest, again.recent.newest)
    status = controller.status()
    assert "the simulator" in status["note"] and "the goal" in status["note"] and not status["carrying"]
    ask(controller, "keys", keys=["d"])
    controller.tick()
    assert controller.status()["plan"] is None, "it began somewhere else"
    assert "made by one of guided, policy, cem" in ask(controller, "imagine", way="oracle")["note"]


def test_keys_give_a_plan_up(start: Callable[..., DreamController], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldmodel.agents.dream_controller.imagine_plan", lambda *given: imagine_plan(*given, most=4))
    controller = start()
    ask(controller, "imagine", way="cem")
    ask(controller, "carry_out")
    controller.tick()
    controller.release()
    assert controller.moving, "a page that is closed does not stop it"
    assert "given up" in ask(controller, "keys", keys=["a"])["note"]
    ask(controller, "keys", keys=[])
    controller.tick()
    assert controller.status()["action"] == "move left" and not controller.moving


def test_the_outcome_of_a_plan_is_the_simulators(start: Callable[..., DreamController]) -> None:
    controller = start(seed=2)
    session, task = controller.session, controller.session.task
    ask(controller, "goal", keep=True)
    goal = session.goal.state
    ask(controller, "say", text="move left", steps=4)
    run(controller)
    ask(controller, "imagine", way="policy")
    imagined = controller._plan
    assert imagined is not None
    for back in (np.ones((5, BLOCK, 1)), np.zeros((2, BLOCK, 1))):
        actions = np.concatenate([back, 0 * back], axis=2).astype(np.float32)
        twin = make_task(TASK, image_size=toys.IMAGE)
        twin.reset(options={"state": task.get_state(), "variation_values": task.variation})
        met = []
        for action in actions.reshape(-1, SIZE):
            twin.advance(action)
            met.append(twin.is_success(twin.get_state(), goal))
        distance = twin.goal_distance(twin.get_state(), goal)
        twin.close()
        controller._plan = ImaginedPlan(imagined.frames, actions, None)
        ask(controller, "carry_out")
        run(controller)
        if back.any():
            assert any(met) and not met[0]
            wanted = f"the simulator met the goal after {met.index(True) // BLOCK + 1} of 5 model steps"
            assert controller.status()["note"] == wanted and session.met == 4 + met.index(True) // BLOCK + 1
            ask(controller, "say", text="move left", steps=4)
            run(controller)
        else:
            wanted = f"the simulator did not meet the goal: distance {distance:.3f}, met up to {task.success_threshold:.3f}"
            assert not any(met) and controller.status()["note"] == wanted


def test_a_plan_ends_where_the_model_says_that_it_is_there(
    world: World, workers: TaskWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, toys.IMAGE, toys.IMAGE, 3), dtype=np.uint8)
    task = make_task(TASK, image_size=toys.IMAGE)
    seen = DreamSession(world, task, TASK).seen
    task.close()
    for left, steps in ((BLOCK - 0.5, 1), (1000.0, MOST_STEPS)):
        monkeypatch.setattr(
            "worldmodel.acting.Acting.steps_to_go", lambda self, frames, goal, left=left: seen.latents.new_full((len(frames),), left)
        )
        plan = imagine_plan(world, workers, seen, frames[0], "policy")
        assert plan.actions.shape == (steps, BLOCK, SIZE) and len(plan.frames) == steps + 1 and plan.to_go == left
    again = Dream(world, TASK)
    again.begin(seen)
    for i, actions in enumerate(plan.actions):
        again.step(seen.latents.new_tensor(actions.reshape(-1)))
        assert np.array_equal(again.frame(), plan.frames[i + 1])


def test_a_model_that_was_not_taught_to_act_plans_by_search() -> None:
    assert ways_to_plan(World(toys.stem_model(action_dim=BLOCK * SIZE), toys.tokenizer(), codec(2), CARD), TASK) == ("cem",)


def test_alone_there_is_nothing_to_compare_with(start: Callable[..., DreamController]) -> None:
    controller = start(alone=True)
    ask(controller, "say", text="move right", steps=2)
    run(controller)
    status = ask(controller, "see")
    assert (status["truth"], status["distance"], status["answers"]["truth"]) == (None, None, None)
    ask(controller, "imagine", way="policy")
    assert "driven alone" in ask(controller, "carry_out")["note"]


@pytest.mark.parametrize("alone", [False, True])
def test_films_show_every_step_of_both_sides(start: Callable[..., DreamController], tmp_path: Path, alone: bool) -> None:
    controller = start(alone=alone)
    ask(controller, "say", text="move right", steps=3)
    run(controller)
    sizes = {}
    for place, make in controller.downloads.items():
        if place == "/plan.gif":
            continue
        path = tmp_path / place[1:]
        path.write_bytes(make())
        shown = list(decode(path))
        assert len(shown) >= 4 and not np.array_equal(shown[0], shown[-1])
        sizes[place] = shown[0].shape
    height, width, _ = sizes["/film.gif"]
    assert sizes["/film.gif"] == sizes["/film.mp4"] and (height > 2 * width) == (not alone)


def test_unknown_messages_and_nan_are_notes(start: Callable[..., DreamController], monkeypatch: pytest.MonkeyPatch) -> None:
    controller = start()
    assert "unknown" in ask(controller, "fly")["note"]
    rollout = controller.session.dream.rollout
    predict = rollout.rollout
    monkeypatch.setattr(rollout, "rollout", lambda *given: predict(*given) * np.nan)
    ask(controller, "keys", keys=["d"])
    controller.tick()
    status = controller.status()
    assert (
        status["failed"] and "not finite" in status["note"] and status["lost"] and status["distance"] is None and status["step"] == 1
    )
