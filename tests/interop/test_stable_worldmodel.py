"""stable-worldmodel itself: its `World.collect` writes what is read here, its `load_dataset` reads what is written here."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from tests.datasets.counter import assert_counts, draw_number, read_numbers, write_counter_file
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.interop import stable_worldmodel

STEPS = 12
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def swm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The package. It imports torchvision, which some builds of torch need two operators declared for."""
    os.environ["STABLEWM_HOME"] = str(tmp_path_factory.mktemp("home"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return pytest.importorskip("stable_worldmodel")


class Counter(gymnasium.Env):
    """Shows the number of steps since the reset."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-100, 100, (2,), np.float32)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.count = render_mode, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert np.all(action == self.count), "the policy below says the number that is seen"
        self.count += 1
        return np.full(2, float(self.count)), 0.0, False, False, {}

    def render(self) -> np.ndarray:
        return draw_number(self.count)


def collect(swm: Any, env: str, path: Path, policy: Any, size: int, episodes: int = 3, **options: Any) -> None:
    world = swm.World(env, num_envs=2, image_shape=(size, size), max_episode_steps=STEPS)
    world.set_policy(policy)
    world.collect(str(path), episodes=episodes, seed=0, format="hdf5", progress=False, **options)
    world.close()


def test_what_it_collects_is_read_with_actions_between_their_frames(swm: Any, tmp_path: Path) -> None:
    class Speaker(swm.policy.BasePolicy):
        """Says the number that is seen."""

        def get_action(self, infos: dict[str, np.ndarray], **_: Any) -> np.ndarray:
            return np.repeat(np.asarray(infos["step_idx"]).reshape(-1, 1), 2, axis=1).astype(np.float32)

    if "Counter-v0" not in gymnasium.registry:
        gymnasium.register("Counter-v0", Counter)
    collect(swm, "Counter-v0", tmp_path / "theirs.h5", Speaker(), 32)
    with h5py.File(tmp_path / "theirs.h5") as file:  # the first frame is not recorded, its action is at the end
        assert read_numbers(file["pixels"][:STEPS]) == [*range(1, STEPS + 1)]
        assert file["action"][:STEPS, 0].tolist() == [*range(1, STEPS), 0]
    episodes, meta = stable_worldmodel.read(tmp_path / "theirs.h5")
    found = list(episodes)
    assert len(found) == 3
    for episode in found:
        assert_counts(episode, STEPS - 1, first=1)
        assert episode.state[:, 0].tolist() == [*range(1, STEPS + 1)]
    assert meta["dropped"] == ["render_time", "reward", "truncated"]


@pytest.mark.parametrize("frameskip", [1, 2, 3])
def test_what_we_write_it_cuts_into_the_clips_that_we_cut(swm: Any, tmp_path: Path, frameskip: int) -> None:
    write_counter_file(tmp_path / "ours.h5", (9, 6, 12), action_size=2)
    with EpisodeStore(tmp_path / "ours.h5") as store:
        stable_worldmodel.write(store, tmp_path / "theirs.h5")
        data = swm.data.load_dataset(str(tmp_path / "theirs.h5"), num_steps=3, frameskip=frameskip)
        assert set(data.column_names) >= {"pixels", "action", "state", "proprio", "success", "captions"}
        assert len(data) == sum(max(0, length + 1 - 3 * frameskip + 1) for length in (9, 6, 12))
        for k in range(len(data)):
            theirs, (episode, start) = data[k], data.clip_indices[k]
            ours = store.clip(int(episode), int(start), 2, action_block=frameskip)
            pixels = theirs["pixels"].numpy().transpose(0, 2, 3, 1)
            assert np.array_equal(pixels, ours.frames)
            assert np.array_equal(theirs["action"].numpy()[:2], ours.actions)  # the third one leaves the last frame
            numbers = 100 * int(episode) + int(start) + frameskip * np.arange(3)
            assert read_numbers(pixels) == numbers.tolist() and theirs["action"][:, 0].tolist()[:2] == numbers[:2].tolist()
            assert np.array_equal(theirs["state"].numpy()[:, 0], numbers) and np.array_equal(theirs["proprio"].numpy()[:, 1], numbers)


def test_its_loader_makes_batches_of_a_file_of_ours(swm: Any, tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    write_counter_file(tmp_path / "ours.h5", (9, 6), action_size=2)
    with EpisodeStore(tmp_path / "ours.h5") as store:
        stable_worldmodel.write(store, tmp_path / "theirs.h5")
    data = swm.data.load_dataset(str(tmp_path / "theirs.h5"), num_steps=2, keys_to_load=["pixels", "action", "state"])
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert batch["pixels"].shape == (4, 2, 3, 32, 32) and batch["action"].shape == (4, 2, 2)
    scaler = swm.data.ZScoreScaler()
    scaler.fit(np.array(data.get_col_data("action")))  # the unknown actions at the ends do not spoil its statistics
    assert np.isfinite(np.asarray(scaler.transform(batch["action"][:, :1]))).all()


def test_a_file_it_collected_is_trained_on(swm: Any, tmp_path: Path) -> None:
    collect(swm, "swm/TwoRoom-v1", tmp_path / "theirs.h5", swm.policy.RandomPolicy(seed=0), 64, 6, options={"variation": ["all"]})
    episodes, meta = stable_worldmodel.read(tmp_path / "theirs.h5")
    write_episodes(tmp_path / "ours.h5", episodes, meta)
    with EpisodeStore(tmp_path / "ours.h5") as store, h5py.File(tmp_path / "theirs.h5") as file:
        assert store.lengths.tolist() == [STEPS - 1] * 6
        assert np.array_equal(store.episode(1).frames, file["pixels"][STEPS : 2 * STEPS])
        factors = {name.removeprefix("variation.") for name in file if name.startswith("variation.")}
        assert factors and set(store.episode(0).variation) == factors
        moved = [np.diff(store.episode(i).state, axis=0) for i in range(6)]
        actions = [store.episode(i).actions for i in range(6)]
    along = np.sum(np.concatenate(moved) * np.concatenate(actions), axis=1)
    assert np.mean(along > 0) > 0.9  # an action moves the agent its own way, but for walls
    assert "the checkpoint after 2 steps" in train(tmp_path)


def train(folder: Path) -> str:
    """A small training run on `ours.h5` in this folder, codec, then model; what it printed."""
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": f"The Congress met {n} times."}) for n in range(40)))
    empty = [f"--mixture.{name} 0" for name in ("caption", "captioned-image", "question", "pictures")]
    common = f"--data {folder}/ours.h5 --mixture.corpora {folder}/texts.jsonl --mixture.held-out 0.4 {' '.join(empty)}"
    codec = "--codec.masked.steps 2 --codec.joint.steps 2 --codec.decoder-steps 2 --codec.batch-size 4 --codec.probe-frames 64"
    run(f"codec {common} --out {folder}/codec {codec} --codec.decoder-frames 64")
    model = "--train.steps 2 --train.packing.rows 2 --train.log-every 1 --train.sample-every 2"
    place = f"--codec {folder}/codec --out {folder}/run"
    return run(f"pretrain {common} {place} --vocab-size 400 --mixture.action-block 2 --preset tiny {model}")


def run(arguments: str) -> str:
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "worldmodel.scripts.cli", *arguments.split()]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return result.stdout
