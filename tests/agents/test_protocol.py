"""Manifests: drawn from held-out episodes as documented, exact after a round trip, refused when damaged."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from worldmodel.agents import protocol
from worldmodel.agents.protocol import Manifest, ManifestConfig, make_manifest
from worldmodel.errors import UserError


class LineTask:
    """States are (clock, place); success within 0.1."""

    success_threshold = 0.1

    def goal_distance(self, state, goal_state):
        return float(abs(state[1] - goal_state[1]))

    def is_success(self, state, goal_state):
        return self.goal_distance(state, goal_state) <= self.success_threshold


class Store:
    """Episodes of 10 steps: even ones stand still, odd ones move by 0.07 a step."""

    meta = {"env_id": "toy/Line-v0"}
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
    assert starts.dtype == np.float64 and starts.shape == goals.shape == (3, 2)


def damage(content):
    return {
        "foreign": ({"kind": "something else"}, 'lacks "kind"'),
        "a list": ([1, 2], 'lacks "kind"'),
        "another version": (content | {"schema_version": 99}, "schema version 99, this program reads 1"),
        "a field missing": ({k: v for k, v in content.items() if k != "budget"}, "missing .'budget'"),
        "a field too many": (content | {"extra": 1}, "unknown .'extra'"),
        "no problems": (content | {"problems": []}, "no problems"),
        "odd states": (
            content | {"problems": [content["problems"][0] | {"goal_state": [1.0]}]},
            "different length",
        ),
        "a word for a number": (
            content | {"problems": [content["problems"][0] | {"goal_state": ["x", "y"]}]},
            "could not convert",
        ),
    }


DAMAGES = ["foreign", "a list", "another version", "a field missing", "a field too many", "no problems"]


@pytest.mark.parametrize("kind", [*DAMAGES, "odd states", "a word for a number"])
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
    with pytest.raises(UserError, match="is not a manifest"):
        Manifest.load(tmp_path)
