"""Policies trained with Stable-Baselines3, read from their .zip without ever unpickling anything.

A file of Stable-Baselines3 is a zip of a JSON text, whose values are partly pickles in base64, and of weights. Only
the plain parts of the JSON are looked at here, and the weights are loaded as tensors alone. What network they belong
to follows from their names and shapes; it is built from the classes of the library for the spaces of our task.

The JSON describes in plain text the spaces that the policy was trained with. Numbers in another unit would do no less harm than
another number of them, so a policy of the raw environment, or one that saw its numbers through `VecNormalize`, is refused. Of SAC, TD3
and DDPG the file has the same entries with `VecNormalize` and without; there only statistics that lie next to it show which.
"""

import json
import re
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.sac import policies as sac
from stable_baselines3.td3 import policies as td3

from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.envs.task import Observation, Policy, Task

CLASSES: dict[tuple[str, str], Any] = {
    ("actor-critic", "proprio"): ActorCriticPolicy,
    ("actor-critic", "pixels"): ActorCriticCnnPolicy,
    ("actor-critic", "both"): MultiInputActorCriticPolicy,
    ("sac", "proprio"): sac.SACPolicy,
    ("sac", "pixels"): sac.CnnPolicy,
    ("sac", "both"): sac.MultiInputPolicy,
    ("td3", "proprio"): td3.TD3Policy,
    ("td3", "pixels"): td3.CnnPolicy,
    ("td3", "both"): td3.MultiInputPolicy,
}
"""(family, kind of observation) -> policy class; PPO and A2C are of the family actor-critic."""
ACTIVATIONS = ("Tanh", "ReLU", "ELU", "LeakyReLU", "GELU", "SiLU")
MAX_BYTES = 2**30
"""Size that a file may unpack to."""
_NUMBER = re.compile(r"[-+]?(?:inf|nan|\d+\.?\d*(?:e[-+]?\d+)?)")
_BOX = re.compile(r"'(\w+)': Box\((.+?), (.+?), \([\d, ]*\), (\w+)\)")

Weights = dict[str, torch.Tensor]
Range = tuple[float, float, str]
"""Lowest and highest number of a space, and its type."""


def sb3_policy(path: Path, task: "Task", rng: np.random.Generator) -> "Policy":
    """Load the policy of a file, to act as it did while it was trained: with its own exploration noise, drawn from `rng`.

    A policy of generalized state-dependent exploration, and TD3's, act without noise.

    Args:
        path: .zip that `model.save` of PPO, A2C, SAC, TD3 or DDPG wrote.
        task: gives the spaces; the policy was trained on its Dict observation, on `proprio` or on `pixels`, without `VecNormalize`.
        rng: source of the noise.

    Raises:
        UserError: the file is missing, damaged, foreign, or does not fit the task.
    """
    space = task.action_space
    assert isinstance(space, spaces.Box), f"a task has a Box of actions, got {space}"
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    bounds = (tuple(space.low.tolist()), tuple(space.high.tolist()))
    seen = task.observation_space
    assert isinstance(seen, spaces.Dict), f"a task has a Dict of observations, got {seen}"
    ranges = tuple((name, _range_of(box)) for name, box in seen.spaces.items() if isinstance(box, spaces.Box))
    policy, sees, noisy = _load(path, changed, task.image_size, task.proprio_size, bounds, ranges)

    def act(obs: "Observation", info: dict[str, Any]) -> np.ndarray:
        with torch.no_grad():
            mean, deviation = _distribution(policy, _tensors(obs, sees), noisy)
        action = mean + deviation * rng.standard_normal(mean.shape) if deviation is not None else mean
        if isinstance(policy, sac.SACPolicy):
            action = np.tanh(action)
        if policy.squash_output:
            action = space.low + 0.5 * (np.clip(action, -1.0, 1.0) + 1.0) * (space.high - space.low)
        return np.clip(action, space.low, space.high).astype(np.float32)

    return act


def _tensors(obs: "Observation", sees: str) -> Any:
    """Convert the observation to a batch of one; pictures with channels first."""
    tensors = {
        "pixels": torch.from_numpy(np.ascontiguousarray(obs["pixels"].transpose(2, 0, 1)))[None],
        "proprio": torch.from_numpy(np.asarray(obs["proprio"], np.float32))[None],
    }
    return tensors if sees == "both" else tensors[sees]


def _distribution(policy: Any, tensors: Any, noisy: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Compute mean and standard deviation (a,) of the action, before any tanh of SAC; None for no noise."""
    if isinstance(policy, sac.SACPolicy):
        mean, log_deviation, _ = policy.actor.get_action_dist_params(tensors)
        return _row(mean), _row(log_deviation.exp()) if noisy else None
    if isinstance(policy, td3.TD3Policy):
        return _row(policy.actor(tensors)), None
    distribution = policy.get_distribution(tensors)
    if not noisy:
        return _row(distribution.mode()), None
    return _row(distribution.distribution.mean), _row(distribution.distribution.stddev)


def _row(batch: torch.Tensor) -> np.ndarray:
    return batch[0].double().numpy()


@lru_cache(maxsize=4)
def _load(
    path: Path,
    changed: int,
    image_size: int,
    proprio_size: int,
    bounds: tuple[tuple[float, ...], tuple[float, ...]],
    ranges: tuple[tuple[str, Range], ...],
) -> tuple[BasePolicy, str, bool]:
    """Load the policy, what it observes, and whether it has noise of its own; kept, as each episode asks for it again."""
    data, weights = _read(path)
    family, sees = _family(path, weights), _sees(weights)
    _refuse_normalised(path, data, family)
    _refuse_other_numbers(path, data, sees, bounds, dict(ranges))
    pictures = spaces.Box(0, 255, (3, image_size, image_size), np.uint8)
    body = spaces.Box(-np.inf, np.inf, (proprio_size,), np.float32)
    space = {"proprio": body, "pixels": pictures, "both": spaces.Dict({"pixels": pictures, "proprio": body})}[sees]
    actions = spaces.Box(np.array(bounds[0], np.float32), np.array(bounds[1], np.float32))
    use_sde = data.get("use_sde") is True
    options = _options(data, weights, family) | ({"use_sde": use_sde} if family != "td3" else {})
    try:
        policy = CLASSES[family, sees](space, actions, lambda _: 0.0, **options)
        policy.load_state_dict(weights)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{path} does not fit this task ({sees} of {image_size} px and {proprio_size} numbers, {len(bounds[0])} action "
            f"components): {' '.join(line.strip() for line in reason[:2])}"
        ) from error
    policy.set_training_mode(False)
    return policy, sees, not use_sde


def _range_of(box: spaces.Box) -> Range:
    return float(box.low.min()), float(box.high.max()), str(box.dtype)


def _range_in_words(low: object, high: object, dtype: object) -> Range | None:
    """Read the range of a Box whose bounds are texts such as "[-3. -3.]" or "-3.0"; None when these hold no numbers."""
    lows, highs = ([float(number) for number in _NUMBER.findall(str(text))] for text in (low, high))
    return (min(lows), max(highs), str(dtype)) if lows and highs else None


def _refuse_normalised(path: Path, data: dict[str, Any], family: str) -> None:
    """Refuse a policy of normalized observations, whose means and deviations are in no file that can be read without unpickling."""
    # Algorithms that learn from a buffer keep the observation before the last one here, others only what a normalized one was.
    known = family == "actor-critic" and data.get("_last_original_obs") is not None
    folders = (path.parent, path.with_suffix(""))  # the second is where RL Zoo puts them
    statistics = [item for folder in folders for item in sorted(folder.glob("*.pkl")) if "norm" in item.name.lower()]
    beside = next((str(item.relative_to(path.parent)) for item in statistics), None)
    if known or beside:
        raise UserError(
            f"{path} was trained with VecNormalize, {'its file' if known else f'{beside} beside it'} says: here it would be fed other "
            "numbers; train it without, the proprioception of tasks is scaled already"
        )


def _refuse_other_numbers(
    path: Path, data: dict[str, Any], sees: str, actions: tuple[tuple[float, ...], tuple[float, ...]], ranges: Mapping[str, Range]
) -> None:
    """Refuse a policy whose observations or actions had another range or type than the task's."""
    trained, acted = (each if isinstance(each, dict) else {} for each in (data.get("observation_space"), data.get("action_space")))
    found: dict[str, Range | None] = {sees: _range_in_words(trained.get("low"), trained.get("high"), trained.get("dtype"))}
    if sees == "both":
        boxes = _BOX.findall(str(trained.get("spaces")))
        found = dict.fromkeys(ranges) | {name: _range_in_words(low, high, dtype) for name, low, high, dtype in boxes}
    did = _range_in_words(acted.get("low"), acted.get("high"), acted.get("dtype"))
    wanted = (min(actions[0]), max(actions[1]), did[2] if did else "float32")
    pairs = [(f"saw {name}", seen, ranges[name]) for name, seen in found.items() if name in ranges] + [("did actions", did, wanted)]
    for what, theirs, ours in pairs:
        if theirs != ours:
            raise UserError(
                f"{path} {what} {_told(theirs)} while it was trained, here they are {_told(ours)}: train it on the task that "
                "`make_task` makes, not on the environment behind it"
            )


def _told(numbers: Range | None) -> str:
    return f"from {numbers[0]:g} to {numbers[1]:g} ({numbers[2]})" if numbers else "of which its file does not tell the range"


def _read(path: Path) -> tuple[dict[str, Any], Weights]:
    """Read the JSON, whose pickled values stay what they are, text; and the weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
                raise UserError(f"{path} unpacks to more than {MAX_BYTES >> 20} MiB; this is no policy for our tasks")
            data = json.loads(archive.read("data"))
            with archive.open("policy.pth") as file:
                weights = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(data, dict) or not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
            raise ValueError("not the content of a policy")
    except UserError:
        raise
    except Exception as error:  # zipfile, json and torch each raise types of their own for foreign bytes
        raise UserError(f"{path} is damaged or not a model that Stable-Baselines3 saved") from error
    return data, dict(weights)


def _family(path: Path, weights: Weights) -> str:
    names = set(weights)
    if "action_net.weight" in names and "value_net.weight" in names and ("log_std" in names):
        return "actor-critic"
    if "actor.mu.weight" in names and any(name.startswith("critic.qf0.") for name in names):
        return "sac"
    if "actor.mu.0.weight" in names and any(name.startswith("critic.qf0.") for name in names):
        return "td3"
    raise UserError(f"{path} holds no policy of PPO, A2C, SAC, TD3 or DDPG with continuous actions")


def _sees(weights: Weights) -> str:
    if any(".extractors.pixels." in name for name in weights):
        return "both"
    return "pixels" if any("features_extractor.cnn." in name for name in weights) else "proprio"


def _options(data: dict[str, Any], weights: Weights, family: str) -> dict[str, Any]:
    """Collect the arguments of the policy's constructor that the file gives in plain text or by the shapes of its weights."""
    given = data.get("policy_kwargs")
    given = given if isinstance(given, dict) else {}
    options: dict[str, Any] = {}
    # Where a value is a class, the JSON has it as text beside the pickle: "<class 'torch.nn.modules.activation.ReLU'>".
    activation = re.search(r"\bactivation\.(\w+)", str(given.get("activation_fn", "")))
    if activation and activation.group(1) in ACTIVATIONS:
        options["activation_fn"] = getattr(torch.nn, activation.group(1))
    if isinstance(given.get("normalize_images"), bool):
        options["normalize_images"] = given["normalize_images"]
    if family == "actor-critic":
        # A shared extractor of features is a special case of two that are equal.
        options["share_features_extractor"] = False
        options["net_arch"] = {"pi": _widths(weights, "mlp_extractor.policy_net"), "vf": _widths(weights, "mlp_extractor.value_net")}
        return options
    actor = "actor.latent_pi" if family == "sac" else "actor.mu"
    hidden = _widths(weights, actor)
    options["net_arch"] = {
        "pi": hidden if family == "sac" else hidden[:-1],  # the last layer of TD3's gives the action
        "qf": _widths(weights, "critic.qf0")[:-1],
    }
    options["n_critics"] = sum(bool(re.fullmatch(r"critic\.qf\d+\.0\.weight", name)) for name in weights)
    return options


def _widths(weights: Weights, prefix: str) -> list[int]:
    """Return the outputs of each linear layer `<prefix>.<number>.weight`, in their order."""
    layer = re.compile(re.escape(prefix) + r"\.(\d+)\.weight")
    layers = [(int(match.group(1)), weight) for name, weight in weights.items() if (match := layer.fullmatch(name))]
    return [int(weight.shape[0]) for _, weight in sorted(layers, key=lambda layer: layer[0])]
