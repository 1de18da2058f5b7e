"""What a run is given beside its settings."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from worldmodel.packing import Packer
from worldmodel.training.latent_cache import LatentCache
from worldmodel.training.samples import OnSample
from worldmodel.training.validation import Validation


@dataclass(frozen=True)
class Batches:
    """What is trained on, and measured on."""

    packer: Packer
    """Where batches come from; its config is the training's `packing`. Each process takes its shards of it."""
    latents: LatentCache | None = None
    """The codec's latents of the data, where the training's `cache_latents` is "disk"."""
    validation: Validation | None = None
    """Held-out batches that are measured every `validate_every` steps."""


@dataclass(frozen=True)
class Hooks:
    """What a run calls on the main process, and what ends it early."""

    on_start: Callable[[], None] | None = None
    """Called when the run folder is locked, before the first step."""
    on_sample: OnSample | None = None
    """Called with the step, the averaged model (whole, evaluation mode, no gradients) and the tracker."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set it from outside, on any process, and the run saves and returns after the step it is in."""
