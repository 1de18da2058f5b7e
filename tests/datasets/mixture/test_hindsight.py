"""Transitions and goals, told by counters: frame t shows t, action t is t."""

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.counter import counter_episode, read_number, write_counter_file
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.mixture import hindsight
from worldmodel.datasets.mixture.documents import Action, Document, Frame, NextActions, Steps, Text
from worldmodel.datasets.mixture.hindsight import (
    SHARE_ALONE,
    SHARE_AS_DRAWN,
    SHARE_OF_ONE,
    GoalSource,
    GoalTest,
    SpokenGoalSource,
    StepSampler,
    TransitionSource,
)
from worldmodel.datasets.mixture.training_data import MixtureConfig, open_training_data
from worldmodel.errors import UserError

LENGTHS = (6, 3, 9)
"""Of the episodes; the first frame of episode i shows 100 i."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("counter") / "counter.h5"
    write_counter_file(path, LENGTHS, action_size=2)
    return EpisodeStore(path, in_memory=True)


@pytest.fixture(scope="module")
def in_pairs(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Recorded in blocks of two environment actions of one number each: between frames t and t + 1 lie 2 t and 2 t + 1."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.h5"
    episode = counter_episode(8, action_size=2)
    actions = np.arange(16, dtype=np.float32).reshape(8, 2)
    write_episodes(path, [counter_episode(8, actions=actions), episode], {"env_id": "counter", "seed": 0, "action_block": 2})
    return EpisodeStore(path, in_memory=True)


def documents(source: TransitionSource | GoalSource, seeds: int = 30) -> list[Document]:
    return [source.document(item, np.random.default_rng([item, seed])) for item in range(len(source)) for seed in range(seeds)]


def numbers(frames: Sequence[object]) -> list[int]:
    return [read_number(frame.pixels) for frame in frames if isinstance(frame, Frame)]


def start(number: int) -> tuple[int, int]:
    """The episode that a number is of, and its last number."""
    return number // 100, number // 100 * 100 + LENGTHS[number // 100]


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_transition_has_the_actions_between_its_frames(store: EpisodeStore, block: int) -> None:
    source = TransitionSource(store, range(3), block, horizon=4)
    assert len(source) == sum(max(0, length - block + 1) for length in LENGTHS)
    counts, alone = Counter[int](), []
    for document in documents(source):
        actions = [segment for segment in document if isinstance(segment, Action)]
        frames = [segment for segment in document if isinstance(segment, Frame)]
        shown = [type(segment) for segment in document]
        assert shown == [Frame] * (len(frames) - 1) + [Action] * len(actions) + [Frame]
        assert [frame.predict for frame in frames] == [False] * (len(frames) - 1) + [True]
        *before, now, after = numbers(frames)
        assert before in ([], [now - block])
        assert after == now + block * len(actions) <= start(now)[1] and start(now)[0] == start(after)[0]
        for k, action in enumerate(actions):
            own = range(now + k * block, now + (k + 1) * block)  # the action of step t leaves frame t
            assert action.vector.tolist() == [number for number in own for _ in range(2)]
            assert action.text == "; ".join(f"action: {number}" for number in own) and action.words.count("count on") == block
        counts[len(actions)] += 1
        if now - block >= now // 100 * 100:
            alone.append(not before)
    most = max(LENGTHS) // block
    assert sorted(counts) == list(range(1, min(4, most) + 1))
    assert counts[1] / counts.total() > SHARE_OF_ONE
    assert 0 < sum(alone) < 2.5 * SHARE_ALONE * len(alone)


def test_a_jump_is_as_long_as_it_is_often(store: EpisodeStore) -> None:
    """From a place with room for all: 0.4 and a fourth of 0.6 are single steps, of 2 to 4 a fourth of 0.6 each."""
    source = TransitionSource(store, [2], horizon=4)
    drawn = [source.document(0, np.random.default_rng(seed)) for seed in range(2000)]
    shares = Counter(sum(isinstance(segment, Action) for segment in document) for document in drawn)
    assert [shares[k] / 2000 for k in (1, 2, 3, 4)] == pytest.approx([0.55, 0.15, 0.15, 0.15], abs=0.03)


@pytest.mark.parametrize("block", [1, 2])
def test_a_goal_is_so_many_steps_away_and_the_actions_lead_there(store: EpisodeStore, block: int) -> None:
    source = GoalSource(store, range(3), block, horizon=2, reach=5)
    distances = Counter[int]()
    for document in documents(source):
        *frames, steps, asked = document
        assert isinstance(steps, Steps) and steps.predict and isinstance(asked, NextActions)
        assert not any(isinstance(frame, Frame) and frame.predict for frame in frames)
        now, goal = numbers(frames)
        assert len(frames) == 2, "what came before is not shown"
        assert steps.count == goal - now and goal <= start(now)[1]
        distances[steps.count] += 1
        until = min(steps.count, 2 * block)  # the goal, or the horizon if it is nearer
        assert asked.vectors.shape == (2, block * 2) and asked.vectors.dtype == np.float32
        assert asked.known == 2 * until
        flat = asked.vectors.reshape(-1)
        assert flat[: asked.known].tolist() == [number for number in range(now, now + until) for _ in range(2)]
        assert not flat[asked.known :].any()
    assert sorted(distances) == [1, 2, 3, 4, 5]


def test_steps_are_counted_in_the_environments_steps(in_pairs: EpisodeStore) -> None:
    source = GoalSource(in_pairs, [0], action_block=4, horizon=2, reach=9)
    found = Counter[int]()
    for document in documents(source):
        *frames, steps, asked = document
        now, goal = numbers(frames)
        assert isinstance(steps, Steps) and isinstance(asked, NextActions)
        assert steps.count == 2 * (goal - now) <= 9
        assert asked.vectors.shape == (2, 4) and asked.known == min(steps.count, 8)
        assert asked.vectors.reshape(-1)[: asked.known].tolist() == list(range(2 * now, 2 * now + asked.known))
        found[steps.count] += 1
    assert sorted(found) == [2, 4, 6, 8]
    for document in documents(TransitionSource(in_pairs, [0], action_block=4, horizon=2), 5):
        now, after = numbers(document)[-2:]
        vectors = [segment.vector for segment in document if isinstance(segment, Action)]
        assert np.concatenate(vectors).tolist() == list(range(2 * now, 2 * after))
    with pytest.raises(UserError, match="recorded in blocks of 2 actions; the action block of 3"):
        TransitionSource(in_pairs, [0], action_block=3)


def test_a_spoken_goal_is_true_of_the_frame_that_was_reached(store: EpisodeStore) -> None:
    for document in documents(SpokenGoalSource(store, range(3)), 5):
        now, said, steps, _ = document
        assert isinstance(said, Text) and isinstance(steps, Steps) and not said.predict
        assert said.text == f"the number {numbers([now])[0] + steps.count}"


def test_places_are_all_from_which_a_model_step_is_recorded(store: EpisodeStore) -> None:
    sampler = StepSampler(store, [2, 0], action_block=4, horizon=1)
    expected = [(2, t, 9 - t) for t in range(6)] + [(0, t, 6 - t) for t in range(3)]
    assert [sampler.place(item) for item in range(len(sampler))] == expected
    with pytest.raises(UserError, match="none of 1 episodes holds a clip of 1 steps of 4 actions"):
        StepSampler(store, [1], action_block=4, horizon=1)


def test_all_frames_of_a_goal_document_are_moved_alike_by_a_few_pixels(store: EpisodeStore) -> None:
    """Moved by (down, right): what is at row y is what was at y + down, and an edge repeats the last row."""
    moves = set()
    source, plain = GoalSource(store, range(3), shift=2), GoalSource(store, range(3))
    for draw in range(3 * len(source)):
        rng = [np.random.default_rng([draw, 3]) for _ in range(2)]
        still, moved = plain.document(draw % len(source), rng[0]), source.document(draw % len(source), rng[1])
        assert [type(segment) for segment in still] == [type(segment) for segment in moved]
        frames = [[segment.pixels for segment in document if isinstance(segment, Frame)] for document in (still, moved)]
        places = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
        found = [place for place in places if all(np.array_equal(by(a, *place), b) for a, b in zip(*frames, strict=True))]
        assert len(found) == 1
        moves.update(found)
    assert {down for down, _ in moves} == {right for _, right in moves} == {-2, -1, 0, 1, 2}


@pytest.fixture(scope="module")
def waits(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """A counter of TwoRoom, whose disc stands still up to frame 6 and then goes one and a half success thresholds with each frame."""
    x = 0.225 * np.maximum(0, np.arange(11) - 6.0)
    state = np.zeros((11, 23))
    state[:, 1] = x
    lingers = np.zeros((7, 23))
    lingers[:, 1] = [0.0, 0.3, 0.6, 0.7, 0.6, 0.9, 0.3]
    episodes = [
        counter_episode(4, state=state[:5], goal_state=state[4]),
        counter_episode(10, 100, state=state, goal_state=state[-1]),
        counter_episode(6, 200, state=lingers, goal_state=lingers[-1]),
    ]
    path = tmp_path_factory.mktemp("waits") / "waits.h5"
    write_episodes(path, episodes, {"env_id": "worldmodel/TwoRoom-v0", "seed": 0})
    return EpisodeStore(path, in_memory=True)


def test_of_goals_those_are_preferred_that_are_still_to_be_met(tmp_path: Path, waits: EpisodeStore) -> None:
    """The disc has not moved from now to the goal in 6 of 10 pairs that are 1 apart, 5 of 9 that are 2 apart, ... 1 of 5."""
    met = sum((6 - k + 1) / (11 - k) for k in range(1, 7)) / 10
    for tries in (1, 2, 4):
        source = GoalSource(waits, [1], tries=tries)
        drawn = [source.document(0, np.random.default_rng([tries, seed])) for seed in range(1500)]
        found = [numbers(document[:2])[1] <= 106 for document in drawn]
        as_drawn = SHARE_AS_DRAWN if tries > 1 else 1.0
        assert np.mean(found) == pytest.approx(as_drawn * met + (1 - as_drawn) * met**tries, abs=0.03)
    source = pickle.loads(pickle.dumps(GoalSource(waits, [1], tries=40)))  # as a process is given it that feeds a training
    assert np.mean([numbers(document[:2])[1] <= 106 for document in documents(source, 100)]) < 0.15


def test_the_steps_to_a_goal_are_those_until_it_is_first_met(waits: EpisodeStore) -> None:
    """What an episode does between that and the goal's frame is no part of the way; its actions are shown all the same."""
    test = GoalTest(waits)
    assert [test.first_met(1, 0, k) for k in range(1, 11)] == [0] * 6 + [7, 8, 9, 10]
    assert [test.first_met(2, 0, k) for k in range(1, 7)] == [1, 2, 2, 2, 5, 1]
    assert [test.first_met(2, now, 4) for now in range(4)] == [2, 1, 0, 0]
    seen = Counter[tuple[int, int, int]]()
    for document in documents(GoalSource(waits, [2], tries=3), 60):
        now, goal = numbers(document[:2])
        steps, asked = document[2:]
        assert isinstance(steps, Steps) and isinstance(asked, NextActions)
        assert steps.count == asked.known == goal - now
        assert steps.first == test.first_met(2, now - 200, goal - 200)
        seen[now, goal, steps.first] += 1
    assert seen[200, 204, 2] and seen[203, 204, 0] and seen[200, 206, 1]


def test_the_first_meeting_is_counted_in_the_environments_steps(tmp_path: Path) -> None:
    """Of episodes recorded in blocks of two actions; and how often a mixture draws is what its configuration says."""
    state = np.zeros((7, 23))
    state[:, 1] = [0.0, 0.3, 0.6, 0.7, 0.6, 0.9, 0.3]
    episodes = [counter_episode(6, 10 * i, action_size=4, state=state, goal_state=state[-1]) for i in range(10)]
    write_episodes(tmp_path / "waits.h5", episodes, {"env_id": "worldmodel/TwoRoom-v0", "seed": 0, "action_block": 2})
    shares = {"caption": 0.0, "captioned_image": 0.0, "question": 0.0, "text": 0.0, "pictures": 0.0}
    for tries in (1, 3):
        config = MixtureConfig(clip_length=2, action_block=2, held_out=0.3, goal_tries=tries, **shares)
        [part] = [part for part in open_training_data([tmp_path / "waits.h5"], config).parts if part.kind == "goal"]
        for document in documents(part.source, 1):  # type: ignore[arg-type]
            now, goal = numbers(document[:2])
            steps = document[2]
            assert isinstance(steps, Steps) and steps.count == 2 * (goal - now)
            met = GoalTest(part.source._sampler.store).first_met(0, now % 10, goal % 10)  # type: ignore[attr-defined]
            assert steps.first == (None if tries == 1 else 2 * met)


def test_goals_of_other_environments_are_taken_as_they_come(store: EpisodeStore, waits: EpisodeStore) -> None:
    assert not GoalTest.applies(store) and GoalTest.applies(waits)
    pairs = [[numbers(each[:2]) for each in documents(GoalSource(store, range(3), tries=tries), 5)] for tries in (1, 9)]
    assert pairs[0] == pairs[1]


def test_a_machine_that_cannot_make_the_task_is_told_what_to_do(waits: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object, **named: object) -> None:
        raise UserError("cannot render")

    monkeypatch.setattr(hindsight, "make_task", fails)
    with pytest.raises(UserError, match="cannot render; or set mixture goal_tries to 1"):
        GoalSource(waits, [1], tries=2)
    GoalSource(waits, [1])


def test_every_distance_is_as_likely_and_every_time_of_it(waits: EpisodeStore) -> None:
    source = GoalSource(waits, [1], reach=8)
    drawn = [numbers(source.document(0, np.random.default_rng(seed))[:2]) for seed in range(4000)]
    distances = Counter(goal - now for now, goal in drawn)
    assert [distances[k] / 4000 for k in range(1, 9)] == pytest.approx([1 / 8] * 8, abs=0.02)
    for k in (3, 8):
        times = Counter(now - 100 for now, goal in drawn if goal - now == k)
        assert [times[t] / distances[k] for t in range(11 - k)] == pytest.approx([1 / (11 - k)] * (11 - k), abs=0.07)


def by(frame: np.ndarray, down: int, right: int) -> np.ndarray:
    """A frame whose pixel (y, x) is the one at (y + down, x + right), the nearest where there is none."""
    padded = np.pad(frame, ((2, 2), (2, 2), (0, 0)), "edge")
    return padded[2 + down : 2 + down + len(frame), 2 + right : 2 + right + len(frame)]


def test_neither_held_out_episodes_nor_transitions_are_moved(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "counter.h5", (6,) * 10)
    shares = {"caption": 0.0, "captioned_image": 0.0, "question": 0.0, "text": 0.0, "pictures": 0.0}
    data = open_training_data([tmp_path / "counter.h5"], MixtureConfig(clip_length=2, action_block=1, shift=3, held_out=0.3, **shares))
    store = data.stores[0]
    known = {store.frame(i, t).tobytes() for i in range(10) for t in range(7)}

    def moved(source: TransitionSource | GoalSource) -> float:
        frames = [segment for document in documents(source, 3) for segment in document if isinstance(segment, Frame)]
        return float(np.mean([frame.pixels.tobytes() not in known for frame in frames]))

    trained = {part.kind: part.source for part in data.parts}
    unseen = {part.kind: part.source for part in data.held_out_parts}
    for kind in ("transition", "goal", "spoken goal"):
        assert moved(unseen[kind]) == 0.0
        assert moved(trained[kind]) == 0.0 if kind == "transition" else moved(trained[kind]) > 0.8
        shown = [document for document in documents(unseen[kind], 2)]
        episodes = {number // 100 for document in shown for number in numbers(document)}
        assert episodes == set(data.held_out_episodes[0])


def test_transitions_span_as_many_model_steps_as_jumps_may_and_goals_ask_as_far_as_the_horizon(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "counter.h5", (12,) * 10)
    shares = {"caption": 0.0, "captioned_image": 0.0, "question": 0.0, "text": 0.0, "pictures": 0.0}
    data = open_training_data(
        [tmp_path / "counter.h5"], MixtureConfig(clip_length=2, action_block=1, horizon=5, jump=3, held_out=0.3, **shares)
    )
    trained = {part.kind: part.source for part in data.parts}
    spans = {sum(isinstance(segment, Action) for segment in document) for document in documents(trained["transition"], 5)}
    assert spans == {1, 2, 3}
    asked = {
        len(segment.vectors) for document in documents(trained["goal"], 2) for segment in document if isinstance(segment, NextActions)
    }
    assert asked == {5}
