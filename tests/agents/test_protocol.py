"""Manifests: drawn from held-out episodes as documented, exact after a round trip, refused when damaged."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from worldmodel.agents import protocol
from worldmodel.agents.protocol import Manifest, ManifestConfig, make_manifest
from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.envs import make_task
from worldmodel.envs.recording import Recording
from worldmodel.errors import UserError


class LineTask:
    """States are (clock, place); success within 0.1."""

    success_threshold = 0.1
    recording = Recording(goal_offset=3, budget=7, min_distance=2.0)
    drawn = 50.0
    """Place of the goals that it draws."""

    def reset(self, *, seed, options):
        drawn = np.array([0.0, self.drawn + seed / 2**31])
        return None, {"goal_state": options.get("goal_state", drawn)}

    def goal_distance(self, state, goal_state):
        return float(abs(state[1] - goal_state[1]))

    def is_success(self, state, goal_state):
        return self.goal_distance(state, goal_state) <= self.success_threshold


class Store:
    """Episodes of 10 steps: even ones stand still, odd ones move by 0.07 a step."""

    meta = {"env_id": "toy/Line-v0"}
    path = "toy.h5"
    image_size = 32
    lengths = np.full(10, 10)
    action_block = 1

    def episode(self, i):
        place = np.arange(11) * 0.07 * (i % 2)
        return SimpleNamespace(
            state=np.stack([np.arange(11) + 100.0 * i, place], axis=1),
            actions=np.zeros((10, 1)),
            variation={"colour": "red", "n": i},
        )


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(protocol, "make_task", lambda env_id, image_size: LineTask())
    return Store()


def test_problems_are_frames_of_one_held_out_episode(store):
    manifest = make_manifest(store, [1, 3, 5], "toy", ManifestConfig(problems=6, goal_offset=4, budget=8, min_distance=2.5))
    assert len(manifest.problems) == 6 and manifest.success_threshold == 0.1
    assert {problem.episode for problem in manifest.problems[:3]} == {1, 3, 5}
    assert len({(problem.episode, problem.start_step) for problem in manifest.problems}) == 6
    for problem in manifest.problems:
        states = store.episode(problem.episode).state
        assert problem.goal_step == problem.start_step + 4 <= 10
        assert problem.start_state == tuple(states[problem.start_step])
        assert problem.goal_state == tuple(states[problem.goal_step])
        assert problem.variation == {"colour": "red", "n": problem.episode}
        assert problem.distance == pytest.approx(0.28)


def test_solved_and_near_pairs_are_dropped_and_counted(store):
    manifest = make_manifest(store, [0, 1, 2, 3], "toy", ManifestConfig(problems=4, goal_offset=4, budget=8, min_distance=1.0))
    assert {problem.episode for problem in manifest.problems} == {1, 3}
    assert manifest.dropped_solved >= 2 and manifest.dropped_near == 0
    assert manifest.drawn == manifest.dropped_solved + 4
    with pytest.raises(UserError, match=r"only 0 of 4 problems .* nearer than 5.0"):
        make_manifest(store, [1, 3], "toy", ManifestConfig(problems=4, goal_offset=4, min_distance=5.0))


def test_while_there_are_enough_episodes_each_gives_one_problem(store):
    odd = [1, 3, 5, 7, 9]
    manifest = make_manifest(store, odd, "toy", ManifestConfig(problems=5, goal_offset=4))
    assert sorted(problem.episode for problem in manifest.problems) == odd
    more = make_manifest(store, odd, "toy", ManifestConfig(problems=7, goal_offset=4))
    assert more.problems[:5] == manifest.problems and len({problem.episode for problem in more.problems[5:]}) == 2


def test_what_is_left_open_is_as_the_task_says(store):
    manifest = make_manifest(store, [1, 3], "toy", ManifestConfig(problems=2))
    assert (manifest.goals, manifest.goal_offset, manifest.budget, manifest.min_distance) == ("path", 3, 7, 2.0)
    assert all(problem.goal_step == problem.start_step + 3 for problem in manifest.problems)
    store.action_block = 2
    in_blocks = make_manifest(store, [1, 3], "toy", ManifestConfig(problems=2, min_distance=1.0))
    assert in_blocks.goal_offset == 4 and all(problem.goal_step == problem.start_step + 2 for problem in in_blocks.problems)
    with pytest.raises(UserError, match="blocks of 2 actions; goal_offset must be a multiple of 2"):
        make_manifest(store, [1, 3], "toy", ManifestConfig(problems=2, goal_offset=3))


def test_goals_elsewhere_are_drawn_by_the_task(store):
    manifest = make_manifest(store, [1, 3, 5], "toy", ManifestConfig(problems=3, goals="elsewhere", seed=4))
    assert (manifest.goals, manifest.goal_offset, manifest.budget) == ("elsewhere", 0, 14)
    assert {problem.episode for problem in manifest.problems} == {1, 3, 5}
    assert len({problem.goal_state for problem in manifest.problems}) == 3
    for problem in manifest.problems:
        assert problem.goal_step is None and 50 <= problem.goal_state[1] < 51
        assert problem.start_state == tuple(store.episode(problem.episode).state[problem.start_step])
        assert problem.distance == pytest.approx(problem.goal_state[1] - problem.start_state[1])
    given = make_manifest(store, [1], "toy", ManifestConfig(problems=1, goals="elsewhere", budget=9, min_distance=400.0))
    assert (given.budget, given.min_distance) == (9, 400.0)


def test_goals_elsewhere_that_are_met_or_near_are_dropped(store, monkeypatch):
    monkeypatch.setattr(LineTask, "drawn", 0.0)  # goals between 0 and 1, starts at 0, 0.07, 0.14 ... 0.7
    manifest = make_manifest(store, [1, 3, 5, 7, 9], "toy", ManifestConfig(problems=20, goals="elsewhere"))
    assert manifest.dropped_solved > 0 and manifest.dropped_near > 0
    assert manifest.drawn == 20 + manifest.dropped_solved + manifest.dropped_near
    assert all(problem.distance >= 0.2 for problem in manifest.problems)
    with pytest.raises(UserError, match="goals elsewhere have none"):
        ManifestConfig(goals="elsewhere", goal_offset=5)
    with pytest.raises(UserError, match="must be path or elsewhere"):
        ManifestConfig(goals="nowhere")


@pytest.mark.parametrize("name", ["PointMaze", "Rooms"])
def test_goals_elsewhere_lie_in_the_layout_of_their_start(name, tmp_path):
    config = CollectConfig(name, tmp_path / "a.h5", 6, image_size=16, max_steps=6, workers=1)
    collect(config)
    with EpisodeStore(config.path) as store:
        manifest = make_manifest(store, range(6), "toy", ManifestConfig(problems=8, goals="elsewhere"))
        recorded = [store.episode(i) for i in range(6)]
    assert len({problem.variation["layout" if name == "Rooms" else "maze.layout"] for problem in manifest.problems}) == 6
    task = make_task(manifest.env_id, image_size=16)
    for problem in manifest.problems:
        states = recorded[problem.episode].state
        assert problem.variation == recorded[problem.episode].variation
        assert problem.start_state == tuple(states[problem.start_step])
        assert not any(np.array_equal(task.position_of(state), task.position_of(problem.goal_state)) for state in states)
        options = {"variation_values": problem.variation, "state": problem.start_state, "goal_state": problem.goal_state}
        task.reset(seed=0, options=options)  # refuses a goal in a wall
        assert task.goal_distance(*map(np.array, (problem.start_state, problem.goal_state))) >= 3 * task.success_threshold
    goals = [problem.goal_state for problem in manifest.problems]
    other = manifest.problems[0].variation
    refused = 0
    for goal in [*goals, *np.concatenate([episode.state for episode in recorded])]:
        try:
            task.reset(seed=0, options={"variation_values": other, "goal_state": goal})
        except UserError:
            refused += 1
    assert refused > 0  # so the layouts do differ, and a goal of another one would have been seen


def test_distances_are_measured_under_the_factors_of_the_episode(tmp_path):
    """With one cube in use, what the two cubes out of use do is no way to a goal."""
    config = CollectConfig(
        "Cube", tmp_path / "a.h5", 8, image_size=16, max_steps=30, workers=1, variation=("cube.count",), policies={"play": 1}
    )
    collect(config)
    with EpisodeStore(config.path) as store:
        manifest = make_manifest(store, range(8), "toy", ManifestConfig(problems=8, goal_offset=20, min_distance=1.0))
    task = make_task(manifest.env_id, image_size=16)
    assert len({problem.variation["cube.count"] for problem in manifest.problems}) > 1
    for problem in manifest.problems:
        task.reset(seed=0, options={"variation_values": problem.variation})
        assert problem.distance == task.goal_distance(np.array(problem.start_state), np.array(problem.goal_state))


def test_the_draw_depends_on_the_seed_only(store):
    def draw(seed):
        return make_manifest(store, [1, 3, 5, 7], "toy", ManifestConfig(problems=4, goal_offset=3, min_distance=1.0, seed=seed))

    assert draw(0) == draw(0) != draw(1)


def test_too_short_or_too_few_episodes_are_a_users_mistake(store):
    with pytest.raises(UserError, match=r"only 0 of 2 problems found in 2 held-out episodes"):
        make_manifest(store, [1, 3], "toy", ManifestConfig(problems=2, goal_offset=11))
    with pytest.raises(UserError, match=r"only 0 of 2 .* 20 already solved"):
        make_manifest(store, [0, 2], "toy", ManifestConfig(problems=2, goal_offset=1))
    with pytest.raises(UserError, match="budget is 0"):
        ManifestConfig(budget=0)


def test_a_saved_manifest_is_the_same_to_the_bit(store, tmp_path):
    manifest = make_manifest(store, [1, 3], "toy file", ManifestConfig(problems=3, goal_offset=4, min_distance=1.0))
    manifest.save(tmp_path / "manifest.json")
    loaded = Manifest.load(tmp_path / "manifest.json")
    assert loaded == manifest
    starts, goals = loaded.states
    elsewhere = make_manifest(store, [1, 3], "toy file", ManifestConfig(problems=2, goals="elsewhere"))
    elsewhere.save(tmp_path / "elsewhere.json")
    assert Manifest.load(tmp_path / "elsewhere.json") == elsewhere
    assert starts.dtype == np.float64 and starts.shape == goals.shape == (3, 2)


def test_a_manifest_of_the_version_before_can_be_read(store, tmp_path):
    path = tmp_path / "manifest.json"
    manifest = make_manifest(store, [1, 3], "toy", ManifestConfig(problems=2))
    manifest.save(path)
    content = json.loads(path.read_text())
    del content["goals"]
    path.write_text(json.dumps(content | {"schema_version": 1}))
    assert Manifest.load(path) == manifest


def damage(content):
    return {
        "foreign": ({"kind": "something else"}, 'lacks "kind"'),
        "a list": ([1, 2], 'lacks "kind"'),
        "another version": (content | {"schema_version": 99}, "schema version 99, this program reads 2"),
        "a field missing": ({k: v for k, v in content.items() if k != "budget"}, "missing .'budget'"),
        "a field too many": (content | {"extra": 1}, "unknown .'extra'"),
        "no problems": (content | {"problems": []}, "no problems"),
        "odd states": (
            content | {"problems": [content["problems"][0] | {"goal_state": [1.0]}]},
            "different length",
        ),
        "a word for a number": (
            content | {"problems": [content["problems"][0] | {"goal_state": ["x", "y"]}]},
            "goal_state is 'x', expected float",
        ),
        "no number": (
            content | {"problems": [content["problems"][0] | {"distance": float("nan")}]},
            "distance is nan, expected float",
        ),
        "a budget in words": (content | {"budget": "long"}, "budget is 'long', expected int"),
        "a number for a list": (content | {"problems": 5}, "damaged manifest"),
    }


DAMAGES = ["foreign", "a list", "another version", "a field missing", "a field too many", "no problems"]


@pytest.mark.parametrize(
    "kind", [*DAMAGES, "odd states", "a word for a number", "no number", "a budget in words", "a number for a list"]
)
def test_damaged_manifests_are_refused(store, tmp_path, kind):
    path = tmp_path / "manifest.json"
    make_manifest(store, [1, 3], "toy", ManifestConfig(problems=2, goal_offset=4, min_distance=1.0)).save(path)
    content, message = damage(json.loads(path.read_text()))[kind]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        Manifest.load(path)
    assert str(path) in str(caught.value)


def test_missing_and_unreadable_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no manifest at"):
        Manifest.load(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"kind": "worldmo')
    with pytest.raises(UserError, match="is not a manifest"):
        Manifest.load(tmp_path / "half.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a manifest"):
        Manifest.load(tmp_path / "binary.json")
    (tmp_path / "deep.json").write_text('{"kind":' * 100_000)
    with pytest.raises(UserError, match="is not a manifest: it is nested too deeply"):
        Manifest.load(tmp_path / "deep.json")
    with pytest.raises(UserError, match="is not a manifest"):
        Manifest.load(tmp_path)
