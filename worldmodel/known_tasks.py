"""For which tasks a model was trained, and whether it is asked about another one."""

import logging
from collections.abc import Sequence
from typing import Any

from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError

logger = logging.getLogger(__name__)
KEY = "tasks"
"""Where a card of a model names its tasks."""


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
