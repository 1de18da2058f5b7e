"""`World` says what the parts beneath it say, of the right frames, in the right order, and what became of a task is true."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import worldmodel
from tests.worldmodel import toys
from worldmodel.acting import Acting
from worldmodel.agents.controllers import Parts
from worldmodel.agents.policy import LEAST_BLOCKS
from worldmodel.agents.world import World, from_pretrained
from worldmodel.checkpoint import read_checkpoint, save_pretrained
from worldmodel.codec.frames import decode_video
from worldmodel.codec.rae import RAE, RAEConfig
from worldmodel.codec.vit import DecoderConfig, EncoderConfig
from worldmodel.envs import make_task
from worldmodel.errors import UserError
from worldmodel.generation import describe_frames, draw_pictures
from worldmodel.rollout import Rollout, RolloutConfig

TASK, BLOCK, SIZE = "worldmodel/TwoRoom-v0", 3, 2
CARD: dict[str, Any] = {
    "tasks": {TASK: ["dx", "dy"]},
    "actions": {TASK: {"size": SIZE, "low": -1.0, "high": 1.0, "block": BLOCK}},
    "sources": [{"source": "goal", "kind": "goal"}],
}
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (3, toys.IMAGE, toys.IMAGE, 3), dtype=np.uint8)
GOAL = toys.picture(RNG)
ACTIONS = RNG.uniform(-1, 1, (4 * BLOCK, SIZE)).astype(np.float32)
BEFORE = RNG.uniform(-1, 1, (2 * BLOCK, SIZE)).astype(np.float32)


def painting(codec: RAE) -> RAE:
    """The same with a decoder that paints: a new one paints gray."""
    for parameter in codec.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return codec


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Reads frames one by one, with the actions between them."""
    folder = tmp_path_factory.mktemp("world") / "checkpoint"
    save_pretrained(folder, toys.model(action_dim=BLOCK * SIZE), toys.tokenizer(), painting(toys.codec()), CARD)
    return from_pretrained(folder, "cpu")


@pytest.fixture(scope="module")
def stem_world() -> World:
    """Sees a frame beside those before it."""
    torch.manual_seed(0)
    encoder = EncoderConfig(image_size=toys.IMAGE, patch_size=2, channels=toys.CHANNELS, width=16, depth=1, heads=2)
    codec = painting(RAE(RAEConfig(encoder, DecoderConfig(width=16, depth=1, heads=2))).eval())
    return World(toys.stem_model(action_dim=BLOCK * SIZE), toys.tokenizer(), codec, CARD)


def latents(world: World, frames: np.ndarray) -> torch.Tensor:
    return world.codec.encode_frames(frames)


def test_a_dream_is_what_the_rollout_predicts(world: World, stem_world: World) -> None:
    config = RolloutConfig(num_steps=2)
    blocks, past = (torch.from_numpy(each.reshape(-1, BLOCK * SIZE)) for each in (ACTIONS, BEFORE))
    for each in (world, stem_world):
        rollout = Rollout(each.model, each.tokenizer, config)
        state = rollout.encode(latents(each, FRAMES)[None], past[None])
        wanted = decode_video(each.codec, rollout.rollout(state, blocks[None, None], torch.Generator().manual_seed(5))[0])[0]
        found = each.dream(FRAMES, ACTIONS, seed=5, before=BEFORE, config=config)
        assert found.dtype == np.uint8 and found.shape == (4, toys.IMAGE, toys.IMAGE, 3)
        assert np.array_equal(found, wanted)
        assert np.array_equal(each.dream(FRAMES, blocks.numpy(), 5, past.numpy(), TASK, config), wanted), "the same as model steps"
        for wrong in (
            each.dream(FRAMES[::-1], ACTIONS, 5, BEFORE, config=config),
            each.dream(FRAMES, np.roll(ACTIONS, 1, axis=0), 5, BEFORE, config=config),
            each.dream(FRAMES, ACTIONS, 6, BEFORE, config=config),
        ):
            assert not np.array_equal(wrong, wanted)
        assert len(each.dream(FRAMES, ACTIONS, 5, BEFORE, config=RolloutConfig(action_form="text"))) == 4
    assert len(stem_world.dream(FRAMES, ACTIONS, config=RolloutConfig(jump=3))) == 2
    assert np.array_equal(stem_world.dream(FRAMES, ACTIONS, 5, config=config), wanted), "such a model reads no actions of the past"
    assert np.array_equal(world.dream(FRAMES[2], ACTIONS), world.dream(FRAMES[2:], ACTIONS)), "a single frame may come alone"


def test_actions_and_steps_are_the_models_own(world: World, stem_world: World) -> None:
    for each in (world, stem_world):
        actor, goal = Acting(each.model, each.tokenizer), latents(each, GOAL[None])
        first = float(actor.steps_to_go(latents(each, FRAMES[:1]), goal)[0])
        assert each.steps_to_go(FRAMES[0], GOAL) == pytest.approx(first)
        assert each.steps_to_go(GOAL, FRAMES[0]) != pytest.approx(first, rel=1e-6)
        left = max(first - 2 * BLOCK, LEAST_BLOCKS * BLOCK)
        mean, _ = actor.propose(latents(each, FRAMES[2:])[None], torch.zeros(1, 0, 6), goal, torch.tensor([left]))
        wanted = mean[0, :2].clamp(-1, 1).reshape(-1, SIZE).numpy()
        found = each.act(FRAMES, GOAL, steps=2)
        assert found.dtype == np.float32 and np.allclose(found, wanted, atol=1e-6)
        assert each.act(FRAMES, GOAL).shape == (BLOCK, SIZE)
        for wrong in (each.act(FRAMES[::-1], GOAL, 2), each.act(GOAL, FRAMES[2], 2), each.act(FRAMES, FRAMES[2], 2)):
            assert not np.allclose(wrong, wanted, atol=1e-4)


def test_words_and_pictures_are_those_of_generation(world: World) -> None:
    def said(questions: list[str] | None = None) -> list[str]:
        return describe_frames(world.model, world.tokenizer, latents(world, FRAMES[:1]), questions, 6)

    assert [world.caption(FRAMES[0], 6)] == said()
    assert [world.answer(FRAMES[0], "where is the disc?", 6)] == said(["where is the disc?"]) != said()
    drawn = draw_pictures(world.model, world.tokenizer, ["a red disc"], torch.Generator().manual_seed(4), 2, 1.5)
    found = world.draw("a red disc", seed=4, num_steps=2, guidance=1.5)
    assert np.array_equal(found, decode_video(world.codec, drawn[:, None])[0, 0])
    assert not np.array_equal(found, world.draw("a red disc", seed=5, num_steps=2, guidance=1.5))


def test_a_plan_is_carried_out_and_its_success_is_the_tasks(world: World) -> None:
    task, replayed = (make_task(TASK, image_size=toys.IMAGE) for _ in range(2))
    for controller, budget, seed in (("oracle_true_distance", 25, 1), ("random", 10, 2), ("guided", 9, 3)):
        _, info = task.reset(seed=seed)
        replayed.reset(seed=seed)
        done = world.plan(task, controller=controller, budget=budget)  # type: ignore[arg-type]
        assert done.actions.shape == (budget // BLOCK * BLOCK, SIZE) and done.actions.dtype == np.float32
        assert np.array_equal(done.goal, replayed.render_state(info["goal_state"])) and np.array_equal(
            done.frames[0], replayed.render()
        )
        met = []
        for i, action in enumerate(done.actions):
            replayed.advance(action)
            met.append(replayed.is_success(replayed.get_state(), info["goal_state"]))
            if (i + 1) % BLOCK == 0:
                assert np.array_equal(done.frames[(i + 1) // BLOCK], replayed.render())
        assert len(done.frames) == 1 + len(done.actions) // BLOCK
        assert (done.touched, done.held) == (any(met), met[-1])
        assert done.steps == (met.index(True) + 1 if any(met) else None)
        assert np.array_equal(task.get_state(), replayed.get_state()), "the task itself was driven"
        assert done.touched or controller != "oracle_true_distance", "who knows the way meets the goal"


def test_true_futures_are_seen_as_often_as_the_model_dreams_them(
    world: World, stem_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def told(config: object, parts: Parts, name: str) -> None:
        seen.append(parts.jump)
        raise UserError("that was all")

    monkeypatch.setattr("worldmodel.agents.world.make_controller", told)
    for each in (stem_world, world):
        with pytest.raises(UserError, match="that was all"):
            each.plan(TASK, controller="oracle", rollout=RolloutConfig(jump=3))
    assert seen == [3, 1]


def test_goals_come_as_state_or_as_frame(world: World) -> None:
    task = make_task(TASK, image_size=toys.IMAGE)
    task.reset(seed=0)
    here = task.get_state()
    stay = world.plan(task, goal=here, controller="policy", budget=BLOCK)
    assert np.array_equal(stay.goal, task.render_state(here)) and stay.touched is not None
    task.set_state(here)
    seen = world.plan(task, goal=task.render_state(here), controller="policy", budget=BLOCK)
    assert np.array_equal(seen.goal, stay.goal) and np.array_equal(seen.actions, stay.actions)
    assert (seen.touched, seen.held, seen.steps, len(seen.frames)) == (None, None, None, 2)
    task.set_state(here)
    assert np.allclose(stay.actions, world.act(task.render(), stay.goal), atol=1e-6), "the policy is what act says"
    by_name = world.plan("TwoRoom", controller="random", seed=4, budget=2 * BLOCK)
    task.reset(seed=4)
    assert np.array_equal(by_name.frames[0], task.render()) and np.array_equal(by_name.goal, task.info()["goal"])


def test_what_does_not_fit_is_refused_at_the_start(world: World) -> None:
    small, wide = make_task(TASK, image_size=32), np.zeros((8, 8, 3), np.uint8)
    small.reset(seed=0)
    refusals: list[tuple[str, Any]] = [
        ("float32 of shape", lambda: world.dream(FRAMES.astype(np.float32), ACTIONS, before=BEFORE)),
        (r"frames have the shape \(16, 16\)", lambda: world.dream(FRAMES[0, ..., 0], ACTIONS)),
        (r"takes uint8 frames of shape \(..., 16, 16, 3\)", lambda: world.caption(wide)),
        (r"frame has the shape \(3, 16, 16, 3\), must be one frame", lambda: world.caption(FRAMES)),
        (r"actions are float32 of shape \(11, 2\), must be numbers \(h \* 3, 2\)", lambda: world.dream(FRAMES[0], ACTIONS[1:])),
        (r"shape \(12, 1\).* or \(h, 6\)", lambda: world.dream(FRAMES[0], ACTIONS[:, :1])),
        ("reach from .* must lie between -1 and 1", lambda: world.dream(FRAMES[0], 3 * ACTIONS)),
        ("reach from nan", lambda: world.dream(FRAMES[0], np.full((3, 2), np.nan))),
        ("actions are empty", lambda: world.dream(FRAMES[0], ACTIONS[:0])),
        ("the model reads the actions between the 3 frames, too", lambda: world.dream(FRAMES, ACTIONS)),
        ("2 model steps between them, but before holds 1", lambda: world.dream(FRAMES, ACTIONS, before=BEFORE[3:])),
        (
            "was trained on worldmodel/TwoRoom-v0, so it is not asked about PushT",
            lambda: world.dream(FRAMES[0], ACTIONS, task="PushT"),
        ),
        ("not asked about worldmodel/PushT-v0", lambda: world.plan(make_task("worldmodel/PushT-v0", image_size=16))),
        (r"draws 32 px, the model sees 16: make_task\(..., image_size=16\)", lambda: world.plan(small)),
        ("budget is 2 environment actions, shorter than a model step of 3", lambda: world.plan("TwoRoom", budget=2)),
        ("steps is 99|replan_every is 99", lambda: world.act(FRAMES[0], GOAL, steps=99)),
        ("goal has the shape", lambda: world.act(FRAMES[0], FRAMES)),
        ("question is ' '", lambda: world.answer(FRAMES[0], " ")),
        ("text is ''", lambda: world.draw("")),
        ("num_steps is 0", lambda: world.draw("a disc", num_steps=0)),
    ]
    for words, act in refusals:
        with pytest.raises(UserError, match=words):
            act()


def test_a_model_of_several_tasks_or_without_goals_says_so(world: World) -> None:
    def other(**card: Any) -> World:
        return World(world.model, world.tokenizer, world.codec, CARD | card)

    several = other(tasks=CARD["tasks"] | {"worldmodel/Reacher-v0": ["shoulder", "elbow"]})
    with pytest.raises(UserError, match="trained on worldmodel/TwoRoom-v0, worldmodel/Reacher-v0: say of which one"):
        several.act(FRAMES[0], GOAL)
    assert np.array_equal(several.act(FRAMES[0], GOAL, task="TwoRoom"), world.act(FRAMES[0], GOAL))
    with pytest.raises(UserError, match="does not describe the actions of worldmodel/Reacher-v0"):
        several.act(FRAMES[0], GOAL, task="Reacher")
    older = other(actions=None, mixture={"action_block": BLOCK})
    assert older.actions() == world.actions(), "older cards tell names and block"
    shorter = other(actions={TASK: {"size": 1, "low": -0.001, "high": 0.5, "block": 2}})
    few = shorter.act(FRAMES[0], GOAL)
    assert few.shape == (2, 1) and few.min() >= -0.001 and few.max() <= 0.5, "numbers beyond the task's own are not said"
    for method in (lambda each: each.act(FRAMES[0], GOAL), lambda each: each.steps_to_go(FRAMES[0], GOAL)):
        with pytest.raises(UserError, match="was not taught to act"):
            method(other(sources=[{"source": "video", "kind": "video"}]))
    with pytest.raises(UserError, match="does not say which tasks it was trained on"):
        other(tasks={}).plan("TwoRoom")
    with pytest.raises(UserError, match="do not fit the model's blocks of 6 numbers"):
        other(actions={TASK: {"size": 2, "low": -1.0, "high": 1.0, "block": 4}}).act(FRAMES[0], GOAL)
    with pytest.raises(UserError, match="card's actions of worldmodel/TwoRoom-v0"):
        other(actions={TASK: {"size": "two"}}).act(FRAMES[0], GOAL)


def test_nothing_that_world_returns_carries_gradients_and_the_model_is_as_read(world: World, tmp_path: Path) -> None:
    assert worldmodel.from_pretrained is from_pretrained and isinstance(world, worldmodel.World)
    assert repr(world).startswith("World of worldmodel/TwoRoom-v0") and len(repr(world)) < 100
    assert not world.model.training and world.tasks == CARD["tasks"] and world.image_size == toys.IMAGE
    save_pretrained(tmp_path / "checkpoint", world.model, world.tokenizer, world.codec, world.card)
    again, read = from_pretrained(tmp_path), read_checkpoint(tmp_path)  # as the folder of a quickstart
    assert again.card == read.card == CARD
    assert np.array_equal(again.dream(FRAMES[0], ACTIONS), world.dream(FRAMES[0], ACTIONS))
