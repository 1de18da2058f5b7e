"""World models from scratch: MuJoCo tasks become video with actions, one transformer learns them, and it plans in its own dreams.

    worldmodel.collect(worldmodel.CollectConfig("TwoRoom", Path("two_room.h5")))  # episodes of a task in one file
    # in a shell: worldmodel codec --data two_room.h5 --out codec
    worldmodel.pretrain(worldmodel.PretrainConfig(), ["two_room.h5"], "codec", "run")  # goes on where it was stopped
    world = worldmodel.from_pretrained("run")                                     # what was trained, as an object
    plan = world.plan("TwoRoom", seed=1)                                          # drives the task: frames, actions, outcome
    dream = world.dream(plan.frames[0], plan.actions)                             # the frames that it expected

The sub-packages, of which each imports from those before it only:

    worldmodel.envs        tasks (make_task, task_ids), their physics, pictures and language
    worldmodel.datasets    collection, episode files, texts, pictures, mixtures of all
    worldmodel             the model (torch): codec/, training/, studies/, benchmarks/, tokens to transformer to rollout
    worldmodel.agents      simulators, planners, controllers, evaluation, `World`
    worldmodel.scripts     the verbs of the command `worldmodel`

Importing this package imports none of them; a name below is looked up when it is first used, so that environments and collection
workers never pay for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldmodel import presets as presets
    from worldmodel.agents.cem import CEM as CEM
    from worldmodel.agents.evaluate import evaluate as evaluate
    from worldmodel.agents.mppi import MPPI as MPPI
    from worldmodel.agents.world import World as World
    from worldmodel.agents.world import from_pretrained as from_pretrained
    from worldmodel.codec.kinds import load_codec as load_codec
    from worldmodel.codec.training import train_codec as train_codec
    from worldmodel.datasets.collection.collect import collect as collect
    from worldmodel.datasets.collection.recording import CollectConfig as CollectConfig
    from worldmodel.datasets.episodes.clips import ClipDataset as ClipDataset
    from worldmodel.datasets.episodes.loader import ClipLoader as ClipLoader
    from worldmodel.datasets.episodes.store import EpisodeStore as EpisodeStore
    from worldmodel.datasets.films import write_film as write_film
    from worldmodel.datasets.mixture.training_data import open_training_data as open_training_data
    from worldmodel.envs import make_task as make_task
    from worldmodel.errors import UserError as UserError
    from worldmodel.training.pretrain import PretrainConfig as PretrainConfig
    from worldmodel.training.pretrain import pretrain as pretrain
    from worldmodel.training.train import train as train

__version__ = "0.1.0"

_PLACES = {
    "CEM": "agents.cem",
    "CollectConfig": "datasets.collection.recording",
    "ClipDataset": "datasets.episodes.clips",
    "ClipLoader": "datasets.episodes.loader",
    "EpisodeStore": "datasets.episodes.store",
    "MPPI": "agents.mppi",
    "PretrainConfig": "training.pretrain",
    "UserError": "errors",
    "World": "agents.world",
    "collect": "datasets.collection.collect",
    "evaluate": "agents.evaluate",
    "from_pretrained": "agents.world",
    "load_codec": "codec.kinds",
    "make_task": "envs",
    "open_training_data": "datasets.mixture.training_data",
    "presets": "",
    "pretrain": "training.pretrain",
    "train": "training.train",
    "train_codec": "codec.training",
    "write_film": "datasets.films",
}
"""Public names, and the module of each."""

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'worldmodel' has no attribute {name!r}")
    place = _PLACES[name]
    value = getattr(importlib.import_module(f"worldmodel.{place}"), name) if place else importlib.import_module(f"worldmodel.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
