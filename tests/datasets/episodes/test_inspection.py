from pathlib import Path

import numpy as np
import pytest

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.episodes.inspection import describe, factor_rows, facts, licence, origin, short_licence
from worldmodel.datasets.episodes.schema import STORAGES
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError


def test_facts_are_those_of_the_episodes(tmp_path: Path) -> None:
    reached = {"success": np.array([False, True, False])}
    failed = {"success": np.zeros(5, np.bool_)}
    episodes = [
        make_episode(0, 2, **reached),
        make_episode(1, 4, policy="noisy", **failed),
        make_episode(2, 4, policy="noisy", **failed),
    ]
    meta = {"env_id": "toy", "seed": 7, "action_names": ["dx", "dy"], "package_version": "9.9", "dropped": ["reward"]}
    write_episodes(tmp_path / "toy.h5", episodes, meta)
    with EpisodeStore(tmp_path / "toy.h5") as store:
        known = dict(facts(store))
    assert known["episodes"] == "3 of 2 to 4 actions, 3.3 on average"
    assert known["frames"] == "13 of 16 x 16 px, stored without loss"
    assert known["actions"] == "2 numbers (dx, dy), 1 to a recorded step"
    assert known["policies"] == "noisy 67%, random 33%"
    assert known["success"].startswith("33% of the episodes")
    assert known["seeds"] == "3 different in 3 episodes, 1000 to 1002"
    assert known["origin"] == "recorded by worldmodel 9.9 with seed 7"
    assert known["dropped"] == "reward"
    assert f"{(tmp_path / 'toy.h5').stat().st_size / 13:.0f} for a frame" in known["bytes"]


def test_factors_show_the_values_seen(tmp_path: Path) -> None:
    values = [
        {"color": color, "width": width, "many": f"v{n}", "count": n, "flag": n > 0, "late": 1.0} | ({"rare": "x"} if n == 0 else {})
        for n, (color, width) in enumerate([("red", 0.5), ("blue", 1.25), ("red", 0.75)] + [("red", 1.0)] * 9)
    ]
    write_episodes(tmp_path / "toy.h5", [make_episode(i, 1, variation=value) for i, value in enumerate(values)], {})
    with EpisodeStore(tmp_path / "toy.h5") as store:
        assert dict(factor_rows(store)) == {
            "color": "red 92%, blue 8%",
            "width": "0.5 to 1.25",
            "many": "12 different",
            "count": "0 to 11",
            "flag": "true 92%, false 8%",
            "late": "always 1.0",
            "rare": "always x",
        }


@pytest.mark.parametrize("storage", STORAGES)
def test_the_description_names_every_column(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "toy.h5"
    views = {"side": make_episode(5, 5).frames}
    meta = {"env_id": "toy", "feature_names": ["disc.x", "disc.y"], "action_names": ["dx", "dy"], "camera": "top"}
    write_episodes(path, [make_episode(0, views=views)], meta, storage)
    said = describe(path)
    for name in ("frames", "views/side", "actions", "captions", "variation", "ep_len", "features: disc.y", "actions: dx", "top, side"):
        assert name in said, name
    assert {"lossless": "without loss", "raw": "uncompressed", "jpeg": "as JPEG"}[storage] in said
    line = next(line for line in said.splitlines() if line.startswith("actions: dx"))
    actions = make_episode(0).actions[:, 0].astype(np.float64)
    assert f"{actions.min():.4g}" in line and f"{actions.mean():.4g}" in line


def test_a_video_without_actions_and_words(tmp_path: Path) -> None:
    frames = dict.fromkeys(("captions", "questions", "answers"), [""] * 6)
    steps = dict.fromkeys(("action_texts", "action_words", "changes"), [""] * 5)
    bare = {"actions": np.zeros((5, 0), np.float32), "proprio": np.zeros((6, 0), np.float32), "goal_text": "", "variation": {}}
    write_episodes(tmp_path / "video.h5", [make_episode(**frames, **steps, **bare)], {"source": {"format": "mp4", "name": "a"}})
    said = describe(tmp_path / "video.h5")
    assert "none: video alone" in said and "converted from format mp4, name a" in said and "factor  " not in said
    assert "language" in said and "captions," not in said


def test_origin_and_licence() -> None:
    assert licence({"licence": "CC BY 4.0"}) == "CC BY 4.0"
    assert "MIT" in licence({"env_id": "worldmodel/Rooms-v0"})
    assert "MIT" not in licence({"env_id": "HalfCheetah-v5"}) and "MIT" not in licence(
        {"env_id": "worldmodel/X-v0", "source": "minari"}
    )
    assert origin({}) == "not stated in the file"
    merged = {"merged_from": [{"file": "a.h5", "episodes": 3}, {"file": "b.h5", "episodes": 4}], "package_version": "1"}
    assert origin(merged) == "merged from a.h5 (3 episodes), b.h5 (4 episodes); recorded by worldmodel 1"
    assert origin({"repaired_from": {"file": "x.h5"}}) == "the whole episodes of x.h5, which was damaged"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "toy.h5"
    write_toy_file(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="--repair"):
        describe(path)


def test_a_files_licence_is_told_alike_wherever_it_is_told() -> None:
    own, converted = {"env_id": "worldmodel/PushT-v0"}, {"env_id": "x", "licence": "unknown", "source": {"format": "mp4"}}
    for meta, short, words in (
        ({"licence": "CC-BY-4.0"}, "CC-BY-4.0", "CC-BY-4.0"),
        (own, "free (recorded in worldmodel)", "recorded in a task of worldmodel, whose licence (MIT)"),
        (converted, "none stated", "none stated; ask whoever made the file"),
        ({"env_id": "HalfCheetah-v5"}, "none stated", "none stated; ask whoever made the file"),
    ):
        assert short_licence(meta) == short and words in licence(meta)
