"""Both sides are driven by the same actions; the dream goes on from itself, in constant room, and starts again from the real frame."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.worldmodel import toys
from worldmodel.agents import dream_session
from worldmodel.agents.dream_session import STARTS, DreamSession
from worldmodel.agents.world import World
from worldmodel.codec.rae import RAE, RAEConfig
from worldmodel.codec.vit import DecoderConfig, EncoderConfig
from worldmodel.datasets.collection.teleop_session import TeleopSession
from worldmodel.envs import make_task
from worldmodel.errors import UserError
from worldmodel.generation import describe_frames

TASK, BLOCK, SIZE = "worldmodel/TwoRoom-v0", 3, 2
CARD: dict[str, Any] = {
    "tasks": {TASK: ["dx", "dy"]},
    "actions": {TASK: {"size": SIZE, "low": -1.0, "high": 1.0, "block": BLOCK}},
    "mixture": {"clip_length": 4},
}
RIGHT, UP = np.array([[1.0, 0.0]] * BLOCK, np.float32), np.array([[0.0, 1.0]] * BLOCK, np.float32)


def codec(patch_size: int) -> RAE:
    """With a decoder that paints: a new one paints gray."""
    torch.manual_seed(0)
    encoder = EncoderConfig(image_size=toys.IMAGE, patch_size=patch_size, channels=toys.CHANNELS, width=16, depth=1, heads=2)
    made = RAE(RAEConfig(encoder, DecoderConfig(width=16, depth=1, heads=2))).eval()
    for parameter in made.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.fixture(scope="module", params=["frame by frame", "beside others"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "frame by frame":
        return World(toys.model(action_dim=BLOCK * SIZE), toys.tokenizer(), codec(8), CARD)
    return World(toys.stem_model(action_dim=BLOCK * SIZE), toys.tokenizer(), codec(2), CARD)


@pytest.fixture
def start(world: World) -> Iterator[Callable[..., DreamSession]]:
    task = make_task(TASK, image_size=toys.IMAGE)
    yield lambda **settings: DreamSession(world, task, TASK, **settings)
    task.close()


def encoded(world: World, frame: np.ndarray) -> torch.Tensor:
    return world.codec.encode_frames(frame[None])[0]


def test_the_simulator_does_what_is_asked_and_the_dream_what_the_model_predicts_of_it(
    world: World, start: Callable[..., DreamSession]
) -> None:
    session = start(seed=3)
    first = session.now
    assert first.truth is not None and (first.step, first.dreamt, first.distance, first.still) == (0, 0, 0.0, 0.0)
    asked = [RIGHT, UP, 0.3 * RIGHT]
    shown = []
    for actions in asked:
        session.step(actions)
        shown.append(session.now)
    task = make_task(TASK, image_size=toys.IMAGE)
    alike = TeleopSession(task, seed=3)
    for moment, actions in zip(shown, asked, strict=True):
        for action in actions:
            alike.step(action)
        assert moment.truth is not None and np.array_equal(moment.truth, task.render())
    task.close()
    assert np.array_equal(shown[0].dream, world.dream(first.truth, RIGHT, seed=3)[0])
    assert [moment.step for moment in shown] == [moment.dreamt for moment in shown] == [1, 2, 3]


def test_other_actions_give_another_dream(start: Callable[..., DreamSession]) -> None:
    dreams = []
    for actions in (RIGHT, UP, RIGHT):
        session = start(seed=1)
        session.step(actions)
        dreams.append(session.now.dream)
    assert np.array_equal(dreams[0], dreams[2]) and not np.array_equal(dreams[0], dreams[1])


def test_actions_are_read_in_the_units_of_the_card(world: World, start: Callable[..., DreamSession]) -> None:
    halved, whole = (start() for _ in range(2))
    halved.step(0.5 * RIGHT)
    whole.step(RIGHT)
    card = CARD | {"action_units": {TASK: {"center": [0.0, 0.0], "scale": [2.0, 2.0]}}}
    session = DreamSession(World(world.model, world.tokenizer, world.codec, card), halved.task, TASK)
    session.step(RIGHT)
    dreamt = session.dream.recent.newest
    assert torch.equal(dreamt, halved.dream.recent.newest) and not torch.equal(dreamt, whole.dream.recent.newest)


def test_a_step_costs_the_same_however_long_one_drives(start: Callable[..., DreamSession], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dream_session, "FILM_STEPS", 50)
    session, read = start(), []
    encode = session.dream.rollout.encode
    monkeypatch.setattr(
        session.dream.rollout, "encode", lambda *given: read.append([each.shape[1] for each in given]) or encode(*given)
    )
    monkeypatch.setattr(session, "alone", True)  # the simulator has no part in it
    for _ in range(200):
        session.step(RIGHT)
    look_back = session.dream.look_back
    assert look_back == (session.world.model.config.references or CARD["mixture"]["clip_length"])
    assert session.steps == session.now.dreamt == 200 and len(session.film) == 50
    assert read[look_back - 1 :] == [[look_back, look_back - 1]] * (201 - look_back)
    assert session.dream.recent.latents.shape[1] == look_back and session.dream.recent.actions.shape[1] == look_back - 1
    assert session.dream.recent.latents.untyped_storage().nbytes() <= 4 * (look_back + 1) * session.dream.recent.newest.numel()


def test_starting_again_takes_the_real_frames(world: World, start: Callable[..., DreamSession]) -> None:
    session = start(seed=2)
    for actions in (RIGHT, UP, UP, RIGHT, RIGHT):
        session.step(actions)
    assert session.now.truth is not None and session.now.distance and session.now.still
    truth, dream = session.look()
    assert truth is not None and torch.equal(truth, encoded(world, session.now.truth)) and not torch.equal(truth, dream)
    session.restart()
    truth, dream = session.look()
    assert truth is not None and torch.equal(truth, dream) and session.now.distance == session.now.still == 0.0
    assert (session.now.step, session.now.dreamt) == (5, 0)
    assert session.dream.recent.latents.shape[1] == session.dream.look_back, "the real frames before it are seen, too"
    session.step(UP)
    assert (session.now.step, session.now.dreamt) == (6, 1)


def test_distances_are_in_units_of_two_starts(world: World, start: Callable[..., DreamSession]) -> None:
    session, frames = start(seed=4), []
    rng, task = np.random.default_rng([4, STARTS]), make_task(TASK, image_size=toys.IMAGE)
    for _ in range(STARTS):
        task.reset(seed=int(rng.integers(2**31)))
        frames.append(task.render())
    task.close()
    latents = world.codec.encode_frames(np.stack(frames)).double().numpy()
    unit = np.sqrt(np.mean((latents[1:] - latents[:-1]) ** 2))
    begun = session.look()[1]
    session.step(RIGHT)
    truth, dream = (each.double().numpy() for each in session.look() if each is not None)
    assert session.now.distance == pytest.approx(np.sqrt(np.mean((truth - dream) ** 2)) / unit)
    assert session.now.still == pytest.approx(np.sqrt(np.mean((truth - begun.double().numpy()) ** 2)) / unit)


def test_nan_is_one_sentence_and_the_simulator_goes_on(start: Callable[..., DreamSession], monkeypatch: pytest.MonkeyPatch) -> None:
    session = start()
    session.step(RIGHT)
    rollout = session.dream.rollout.rollout
    with monkeypatch.context() as broken:
        broken.setattr(session.dream.rollout, "rollout", lambda *given: rollout(*given) * np.nan)
        with pytest.raises(UserError, match="not finite, 2 steps after its last real frame: start again from the real frame"):
            session.step(RIGHT)
    before = session.now
    assert session.dream.lost and before.distance is None and before.step == 2
    session.step(-RIGHT)
    assert session.now.step == 3 and session.now.distance is None and session.now.still
    assert before.truth is not None and not np.array_equal(before.truth, session.now.truth)
    assert np.array_equal(before.dream, session.now.dream), "the last frame that was dreamt stays"
    session.restart()
    session.step(RIGHT)
    assert not session.dream.lost and session.now.distance is not None


def test_alone_the_dream_is_driven_from_the_first_frame_and_the_task_waits(start: Callable[..., DreamSession]) -> None:
    session = start(alone=True)
    before, first = session.task.get_state(), session.now.dream
    for _ in range(3):
        session.step(RIGHT)
    assert (session.now.truth, session.now.distance, session.now.still) == (None, None, None)
    assert np.array_equal(session.task.get_state(), before) and not np.array_equal(session.now.dream, first)
    assert session.ask()[0] is None
    session.restart()
    assert np.array_equal(session.now.dream, first)


def test_a_goal_is_met_when_the_simulator_meets_it(start: Callable[..., DreamSession]) -> None:
    session = start(seed=5)
    own = session.goal
    session.keep_goal()
    assert np.array_equal(session.goal.frame, session.now.truth) and session.met is None
    for _ in range(4):
        session.step(RIGHT)
    session.keep_goal()
    for actions in (-RIGHT, -RIGHT, RIGHT, RIGHT):
        session.step(actions)
    assert session.met is not None and session.task.is_success(session.task.get_state(), session.goal.state)
    session.own_goal()
    assert np.array_equal(session.goal.frame, own.frame) and session.met is None
    session.begin()
    assert session.steps == 0 and len(session.film) == 1 and not np.array_equal(session.goal.frame, own.frame)


def test_the_model_is_asked_about_truth_and_dream(world: World, start: Callable[..., DreamSession]) -> None:
    session = start()
    session.step(RIGHT)
    truth, dream = session.look()
    assert truth is not None
    for question in (None, "where is the disc?"):
        asked = None if question is None else [question]
        wanted = tuple(describe_frames(world.model, world.tokenizer, each[None], asked)[0] for each in (truth, dream))
        assert session.ask(question) == wanted
    with pytest.raises(UserError, match="question is '  '"):
        session.ask("  ")
    assert "disc" in session.caption and session.goal.text


def test_what_does_not_fit_is_refused(world: World, start: Callable[..., DreamSession]) -> None:
    session = start()
    with pytest.raises(UserError, match="of 2 model steps, must be of one: 3 environment actions"):
        session.step(np.concatenate([RIGHT, UP]))
    with pytest.raises(UserError, match="must lie between -1 and 1"):
        session.step(2 * RIGHT)
    assert session.steps == 0
    task = make_task(TASK, image_size=32)
    with pytest.raises(UserError, match="draws 32 px, the model sees 16"):
        DreamSession(world, task, TASK)
    task.close()
    with pytest.raises(UserError, match="trained on worldmodel/TwoRoom-v0"):
        DreamSession(world, task, "worldmodel/PushT-v0")
