"""The presets as flags."""

from collections.abc import Callable
from typing import Annotated

import tyro

from worldmodel.presets import Preset, base, paper, small, tiny


def summary(function: Callable[..., object]) -> str:
    """Return the first line of a docstring."""
    return (function.__doc__ or "").partition("\n")[0]


PresetFlag = (
    Annotated[Preset, tyro.conf.subcommand("tiny", default=tiny(), description=summary(tiny))]
    | Annotated[Preset, tyro.conf.subcommand("small", default=small(), description=summary(small))]
    | Annotated[Preset, tyro.conf.subcommand("base", default=base(), description=summary(base))]
    | Annotated[Preset, tyro.conf.subcommand("paper", default=paper(), description=summary(paper))]
)
"""A preset by name, every field of it a flag behind the name."""
