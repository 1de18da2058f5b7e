"""A preset of model and training as flags: `--preset NAME` picks it, `--model...` and `--train...` change it."""

from typing import Annotated

import tyro

from worldmodel.choice import Choice
from worldmodel.presets import PRESETS, Preset

PresetFlag = Annotated[Preset, Choice(PRESETS), tyro.conf.arg(name="")]
"""A preset whose fields are flags of the verb itself."""
