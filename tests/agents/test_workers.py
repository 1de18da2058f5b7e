"""Task workers on the real TwoRoom: exact replay, however the work is split, with each problem's factors."""

import os
import signal

import numpy as np
import pytest

from worldmodel.agents import workers as workers_module
from worldmodel.agents.workers import TaskWorkers
from worldmodel.envs import make_task
from worldmodel.errors import UserError

ENV = "worldmodel/TwoRoom-v0"
SIZE, BLOCK = 32, 2
BLUE = {"disc.color": "blue", "door.position": 0.4, "disc.speed": 2.0}


@pytest.fixture(scope="module")
def pool():
    with TaskWorkers(ENV, SIZE, BLOCK, workers=2) as workers:
        yield workers


@pytest.fixture(scope="module")
def world():
    """A task, three moving starts, goals, actions (3 problems, 5 samples, 4 steps)."""
    task = make_task(ENV, image_size=SIZE)
    starts, goals = [], []
    for seed in range(3):
        _, info = task.reset(seed=seed)
        for _ in range(3):
            task.advance(np.array([0.9, -0.8]))
        starts.append(task.get_state())
        goals.append(info["goal_state"])
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (3, 5, 4, BLOCK * 2)).astype(np.float32)
    actions[:, 0, :, 0::2], actions[:, 1, :, 0::2] = 1, -1  # into walls: contacts are part of the state too
    yield task, np.array(starts), np.array(goals), actions
    task.close()


def collect(workers, states, actions, **kwargs):
    frames = np.zeros((*actions.shape[:3], SIZE, SIZE, 3), np.uint8)

    def keep(problem, samples, seen):
        frames[problem, samples] = seen

    return workers.roll(states, actions, keep, **kwargs), frames


def test_roll_repeats_what_a_task_does_step_by_step_to_the_bit(pool, world):
    task, starts, goals, actions = world
    rolled, frames = collect(pool, starts, actions, goal_states=goals)
    for b, s in np.ndindex(3, 5):
        task.reset(seed=0, options={"state": starts[b], "goal_state": goals[b]})
        for i, action in enumerate(actions[b, s].reshape(-1, 2)):
            obs, _, _, _, info = task.step(action)
            assert rolled.distance[b, s, i] == task.goal_distance(info["state"], goals[b])
            assert rolled.success[b, s, i] == info["success"]
            if i % BLOCK == BLOCK - 1:
                assert np.array_equal(rolled.states[b, s, i // BLOCK], info["state"])
                assert np.array_equal(frames[b, s, i // BLOCK], obs["pixels"])
    assert np.ptp(frames[0, :, -1].astype(int), axis=0).max() > 50  # the samples end in different pictures


def test_a_rolled_state_goes_on_exactly_where_it_was(pool, world):
    _, starts, _, actions = world
    whole, whole_frames = collect(pool, starts, actions[:, :1])
    first, _ = collect(pool, starts, actions[:, :1, :2])
    second, frames = collect(pool, first.states[:, 0, -1], actions[:, :1, 2:])
    assert np.array_equal(second.states, whole.states[:, :, 2:])
    assert np.array_equal(frames, whole_frames[:, :, 2:])


@pytest.mark.parametrize(("processes", "slot"), [(0, 256), (1, 8), (2, 4)])
def test_splitting_the_work_changes_nothing(pool, world, monkeypatch, processes, slot):
    _, starts, goals, actions = world
    whole, whole_frames = collect(pool, starts, actions, goal_states=goals)
    monkeypatch.setattr(workers_module, "SLOT_FRAMES", slot)
    with TaskWorkers(ENV, SIZE, BLOCK, workers=processes) as workers:
        split, split_frames = collect(workers, starts, actions, goal_states=goals)
        pictures = workers.render(starts)
    assert np.array_equal(split.states, whole.states) and np.array_equal(split_frames, whole_frames)
    assert np.array_equal(split.distance, whole.distance) and np.array_equal(split.success, whole.success)
    assert np.array_equal(pictures, pool.render(starts))


def test_without_frames_the_same_happens(pool, world):
    _, starts, goals, actions = world
    seen, _ = collect(pool, starts, actions, goal_states=goals)
    blind = pool.roll(starts, actions, None, goal_states=goals)
    assert np.array_equal(blind.states, seen.states) and np.array_equal(blind.distance, seen.distance)
    assert np.array_equal(blind.success, seen.success)


def test_each_problem_has_its_own_factors(pool, world):
    task, starts, _, actions = world
    variations = [{}, BLUE, {}]
    rolled, frames = collect(pool, starts, actions, variations=variations)
    pictures = pool.render(starts, variations)
    for b in (1, 2):
        task.reset(seed=0, options={"state": starts[b], "variation_values": variations[b]})
        assert np.array_equal(pictures[b], task.render())
        for action in actions[b, 2].reshape(-1, 2):
            task.advance(action)
        assert np.array_equal(rolled.states[b, 2, -1], task.get_state())
        assert np.array_equal(frames[b, 2, -1], task.render())
    assert not np.array_equal(pictures[1], pool.render(starts)[1])


def test_users_mistakes_come_back_from_the_workers(pool, world):
    _, starts, _, actions = world
    with pytest.raises(UserError, match=r"unknown task 'worldmodel/TwoRom-v0'.*did you mean"):
        TaskWorkers("worldmodel/TwoRom-v0")
    with TaskWorkers(ENV, SIZE, BLOCK, workers=1) as workers, pytest.raises(UserError, match="out of bounds"):
        collect(workers, starts, actions * 2)
    with pytest.raises(UserError, match="horizon of 999 model steps is too long"):
        collect(pool, starts, np.zeros((3, 1, 999, 4), np.float32))


def test_a_dead_worker_is_named(world):
    _, starts, _, actions = world
    with TaskWorkers(ENV, SIZE, BLOCK, workers=1) as workers:
        collect(workers, starts, actions[:, :1])
        os.kill(workers._pool.processes[0].pid, signal.SIGKILL)
        with pytest.raises(UserError, match=r"worker task-0 of worldmodel/TwoRoom-v0 died \(exit code -9\), perhaps"):
            collect(workers, starts, actions[:, :1])


def test_a_worker_that_does_not_answer_is_given_up(world):
    _, starts, _, actions = world
    with TaskWorkers(ENV, SIZE, BLOCK, workers=1, timeout=0.5) as workers:
        os.kill(workers._pool.processes[0].pid, signal.SIGSTOP)
        process = workers._pool.processes[0]
        with pytest.raises(UserError, match="no answer from the worldmodel/TwoRoom-v0 workers"):
            collect(workers, starts, actions[:, :1])
        assert not process.is_alive()


def test_closing_ends_the_processes():
    workers = TaskWorkers(ENV, SIZE, BLOCK, workers=1)
    [process] = workers._pool.processes
    assert process.is_alive()
    workers.close()
    assert not process.is_alive()
    with pytest.raises(RuntimeError, match="workers of worldmodel/TwoRoom-v0 are closed"):
        workers.render(np.zeros((1, 23)))
