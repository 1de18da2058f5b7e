"""Which episodes of a file a model and its codec have not been trained on, judged by their content and not by their file."""

import logging
from collections.abc import Sequence

from worldmodel.checkpoint import Pretrained
from worldmodel.codec.codec import Codec
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture.training_data import MixtureConfig
from worldmodel.errors import UserError
from worldmodel.known_tasks import check_task

logger = logging.getLogger(__name__)


def trained_on(stores: Sequence[EpisodeStore], episodes: Sequence[Sequence[int]]) -> list[str]:
    """Return digests of some episodes of each file, for the card of what is trained on them."""
    return sorted({store.identities[i] for store, chosen in zip(stores, episodes, strict=True) for i in chosen})


def held_out_episodes(trained: Pretrained, store: EpisodeStore) -> list[int]:
    """List the episodes of a file that neither the model nor its codec was trained on; all of a file that is new to both.

    Raises:
        UserError: there is none, or the model was trained for other actions.
    """
    check_task(trained.card, store)
    seen, of_codec = trained.card.get("trained_on"), set(trained.codec.trained_on)
    if seen is None:
        logger.warning(
            "the checkpoint does not say which episodes it was trained on: what is held out is right for its own files alone"
        )
        split, default = trained.card.get("mixture", {}), MixtureConfig()
        return store.split(split.get("split_seed", default.split_seed), split.get("held_out", default.held_out))[1]
    model = set(seen)
    unseen = [i for i, name in enumerate(store.identities) if name not in model]
    held_out = [i for i in unseen if store.identities[i] not in of_codec]
    if not held_out:
        by = "its codec or itself" if unseen else "it"
        raise UserError(f"the model was trained on all {len(store)} episodes of {store.path}, {by}: give a file with others")
    if len(held_out) < len(unseen):
        logger.warning(
            "the codec was trained on %d of the %d episodes of %s that the model has not seen: they are left out",
            len(unseen) - len(held_out),
            len(unseen),
            store.path,
        )
    return held_out


def warn_of_seen(codec: Codec, stores: Sequence[EpisodeStore], held_out: Sequence[Sequence[int]]) -> int:
    """Count the held-out episodes of some files that a codec was trained on; logs a warning if there are any."""
    seen = set(codec.trained_on)
    found = sum(store.identities[i] in seen for store, chosen in zip(stores, held_out, strict=True) for i in chosen)
    if found:
        logger.warning(
            "the codec was trained on %d of the %d episodes that are held out here, so what is measured on them is too good: "
            "train codec and model on the same files with the same held_out and split_seed",
            found,
            sum(map(len, held_out)),
        )
    return found
