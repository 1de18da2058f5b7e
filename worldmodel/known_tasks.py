"""For which tasks and on which files a model was trained, as its card tells it, and whether it is asked about another task."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.checkpoint import Pretrained, read_card
from worldmodel.datasets.episodes.action_units import ActionUnits
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.records import shortened
from worldmodel.envs import full_id, short_name
from worldmodel.errors import UserError
from worldmodel.serialization import rebuild

logger = logging.getLogger(__name__)
KEY = "tasks"
"""Where a card of a model names its tasks."""
ACTIONS = "actions"
"""Where it describes their actions."""
UNITS = "action_units"
"""Where it says in which units their actions are read; the environments' own where it does not."""
FILES = "files"
"""Where it says in which files its episodes lie."""


@dataclass(frozen=True)
class Actions:
    """The actions of one task, as a model was trained on them."""

    size: int
    """Numbers of an environment action."""
    low: float
    """The smallest value that any of them has."""
    high: float
    """The largest one."""
    block: int
    """Environment actions of a model step."""


def tasks_of(stores: Sequence[EpisodeStore]) -> dict[str, list[str]]:
    """Collect task -> names of the numbers of its actions, of files with actions; for the card of a model that is trained on them."""
    return {str(store.meta["env_id"]): list(store.meta.get("action_names", [])) for store in stores if store.has_actions}


def check_task(card: dict[str, Any], store: EpisodeStore) -> None:
    """Warn that the episodes of a file are of a task that a model was not trained on; do nothing if its card names no task.

    Raises:
        UserError: the actions of that task are others, too, so that the model could only take them for something else.
    """
    known = card.get(KEY)
    env_id, names = str(store.meta["env_id"]), list(store.meta.get("action_names", []))
    if not isinstance(known, dict) or not known or env_id in known:
        return
    trained = ", ".join(known)
    if names not in known.values():
        raise UserError(
            f"the model was trained on {trained}, and {store.path} holds episodes of {env_id}, whose actions are others "
            f"({', '.join(names[:4])}{', ...' if len(names) > 4 else ''}): give episodes of a task that it knows"
        )
    logger.warning("the model was trained on %s: of %s, the task of %s, it has seen nothing", trained, env_id, store.path)


def card_of(stores: Sequence[EpisodeStore], block: int, units: Mapping[str, ActionUnits]) -> dict[str, Any]:
    """Entries of the card of a model that is trained on some files: tasks, their actions, where the files are.

    Args:
        stores: episode files.
        block: environment actions of a model step.
        units: of the actions' vectors, by task.
    """
    actions: dict[str, Actions] = {}
    for store in stores:
        if store.has_actions:
            name, taken = str(store.meta["env_id"]), store.column("actions")
            taken = taken[np.isfinite(taken)]
            before = actions.get(name, Actions(store.action_size, -1.0, 1.0, block))  # every task takes -1 to 1
            low, high = float(taken.min(initial=before.low)), float(taken.max(initial=before.high))
            actions[name] = Actions(store.action_size, low, high, block)
    return {
        KEY: tasks_of(stores),
        ACTIONS: {name: asdict(each) for name, each in actions.items()},
        UNITS: {name: asdict(each) for name, each in units.items()},
        FILES: [str(store.path.resolve()) for store in stores],
    }


def known_task(card: dict[str, Any], name: str) -> str:
    """Find the id of a task that a model was trained on, from its id or its short name, e.g. `PushT`.

    Raises:
        UserError: the model was not trained on it.
    """
    known = card.get(KEY) or {}
    if full_id(name) in known:
        return full_id(name)
    trained = f"was trained on {', '.join(known)}" if known else "does not say which tasks it was trained on"
    raise UserError(f"the model {trained}, so it is not asked about {name}: name a task that it knows, or train one on {name}")


def actions_of(card: dict[str, Any], task: str) -> Actions:
    """Return the actions of one of the tasks of a card.

    Raises:
        UserError: the card does not describe them, or is damaged.
    """
    described = card.get(ACTIONS)
    found = described.get(task) if isinstance(described, dict) else None
    names, block = (card.get(KEY) or {}).get(task), card.get("mixture", {}).get("action_block")
    if found is None and names and type(block) is int:  # older cards say no more
        return Actions(len(names), -1.0, 1.0, block)
    if found is None:
        raise UserError(f"the checkpoint does not describe the actions of {task}: train it again")
    actions = rebuild(Actions, found, f"the card's actions of {task}")
    assert isinstance(actions, Actions)
    return actions


def units_of(card: dict[str, Any], task: str) -> ActionUnits | None:
    """Return the units in which a model reads the actions of a task; None for the environment's own.

    Raises:
        UserError: the card is damaged.
    """
    given = card.get(UNITS, {})
    if not isinstance(given, dict) or task not in given:
        return None
    units = rebuild(ActionUnits, given[task], f"the card's units of the actions of {task}")
    assert isinstance(units, ActionUnits)
    return None if units.are_own else units


def data_of(checkpoint: Path, task: str = "") -> Path:
    """Find the first episode file with actions that a checkpoint was trained on, and log which one that is.

    Args:
        checkpoint: its folder, or one that `read_checkpoint` takes.
        task: of which task, by name or id; by default of any.

    Raises:
        UserError: the files are gone, the card names none, or the model was not trained on the task.
    """
    card = read_card(checkpoint)
    wanted = known_task(card, task) if task else ""
    files = card.get(FILES)
    if not isinstance(files, list) or not files or not all(isinstance(each, str) for each in files):
        raise UserError(f"the checkpoint {checkpoint} does not say where its episodes are ({shortened(files)}): give --data FILE")
    there = [Path(each) for each in files if Path(each).is_file()]
    if not there:
        raise UserError(f"the episodes that {checkpoint} was trained on are gone from {files[0]}: say where they are with --data FILE")
    if task:
        there = [each for each in there if EpisodeStore(each).meta["env_id"] == wanted]
        if not there:
            raise UserError(f"the episodes of {wanted} that {checkpoint} was trained on are gone: say where they are with --data FILE")
    found = next((each for each in there if EpisodeStore(each).has_actions), there[0])
    others = f", one of its {len(files)} files" if len(files) > 1 else ""
    logger.info("data: %s, which the model was trained on%s", found, others)
    return found


def open_data(trained: Pretrained, checkpoint: Path, data: Path, task: str = "") -> tuple[EpisodeStore, int]:
    """Open episodes that a model is asked about, and tell the env steps of its model step on them.

    Args:
        trained: the model and its card.
        checkpoint: where the model lies, for messages.
        data: the episode file; it is kept in memory.
        task: which the file must be of, by name or id; by default any.

    Raises:
        UserError: it is of another task, or the model was not trained for such actions.
    """
    store = EpisodeStore(data, in_memory=True)
    if task and store.meta["env_id"] != full_id(task):
        raise UserError(f"{store.path} holds episodes of {short_name(store.meta['env_id'])}, not of {task}: name another file")
    return store, block_of(trained, store, checkpoint)


def block_of(trained: Pretrained, store: EpisodeStore, checkpoint: Path) -> int:
    """Return the env steps per model step on the task of a file: as the card says of it, else as many as fill the model's blocks.

    A model of several tasks has blocks of the widest one, in which the other tasks' actions are padded.

    Args:
        trained: the model and its card.
        store: episodes of the task.
        checkpoint: where the model lies, for messages.

    Raises:
        UserError: the model was not trained for such actions.
    """
    card, numbers, size = trained.card, trained.model.config.action_dim, store.action_size
    known, usual = card.get(ACTIONS), card.get("mixture", {}).get("action_block")
    if isinstance(known, dict) and store.meta["env_id"] in known:
        actions = actions_of(card, str(store.meta["env_id"]))
        if actions.size != size or actions.size * actions.block > numbers:
            raise UserError(
                f"the card of {checkpoint} says {actions.block} actions of {actions.size} numbers to a model step; those in "
                f"{store.path} have {size}, and the model takes {numbers}: give episodes that it was trained on"
            )
        return actions.block
    if type(usual) is int and 0 < usual * size <= numbers:
        return usual
    if numbers % size:
        raise UserError(
            f"the model of {checkpoint} takes {numbers} numbers per action block, which is no multiple of the "
            f"{size} numbers of an action in {store.path}"
        )
    return numbers // size
