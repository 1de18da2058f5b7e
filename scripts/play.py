"""Drive a task, or a model's dream beside it, from the keyboard in a local web page.

The pages (`play.html`, `play_dream.html`) show what `status` of a `TeleopController` or a `DreamController` says, and send what was
pressed to its `handle_message`. Time runs in `Station`.
"""

import contextlib
import os
import sys
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worldmodel.datasets.collection.page_server import HOSTS, Station, listen, need_web_packages, serve
from worldmodel.datasets.collection.recording import CollectConfig, warm_up
from worldmodel.datasets.collection.teleop_controller import TeleopController
from worldmodel.datasets.collection.teleop_session import TeleopFile, TeleopSession
from worldmodel.envs import full_id, make_task
from worldmodel.errors import UserError
from worldmodel.home import datasets_dir
from worldmodel.scripts.console import command, run_verb

FOLDER = Path(__file__).parent
SHARED = {f"/{name}": FOLDER / name for name in ("play.css", "play.js")}
"""What both pages are made of, by its path on the server."""
TASK = "worldmodel/TwoRoom-v0"


@dataclass(frozen=True)
class PlayConfig:
    """Drive a task from the keyboard in a local web page and record it, or, with a checkpoint, a model's dream beside it.

    `worldmodel play --task PushT --out driven.h5` adds what is driven to a file.
    """

    task: str | None = None
    """Task: a name such as PushT, or the id of any gymnasium environment; by default TwoRoom, or what the model was trained on."""
    checkpoint: Path | None = None
    """Model whose dream is driven beside the simulator: a checkpoint, the folder of a run or of a quickstart. No episodes are recorded
    then, but there are films to keep."""
    dream_only: bool = False
    """Drive the dream of the checkpoint alone, from the simulator's first frame."""
    out: Path | None = None
    """File that the driven episodes are added to; by default `<task>-driven.h5` in the datasets folder of WORLDMODEL_HOME."""
    port: int = 8000
    """Port of the page on 127.0.0.1; 0 takes any free one."""
    image_size: int = 384
    """Height and width of the picture on the page, in pixels; beside a dream it is what the model sees."""
    record_size: int = 64
    """Height and width of a recorded frame, in pixels."""
    seed: int = 0
    """Seed of the starts, goals and variations."""
    variation: tuple[str, ...] = ()
    """Factors of variation to sample in each episode, e.g. `disc.color`; `all` for every factor."""
    max_steps: int = 1000
    """An episode ends by itself after this many actions; beside a dream it does not."""
    browser: bool = True
    """Open the page in the browser, if there is a display."""
    device: str = "auto"
    """Where the model computes. auto: the first GPU, else the CPU; or cpu, cuda, cuda:N."""

    def __post_init__(self) -> None:
        """Refuse numbers that are out of range, by a UserError."""
        if self.task is None and self.checkpoint is None:
            object.__setattr__(self, "task", TASK)
        if self.task is not None:
            object.__setattr__(self, "task", full_id(self.task))
        if self.dream_only and self.checkpoint is None:
            raise UserError("--dream-only needs the --checkpoint whose dream it is")
        if self.out is not None and self.checkpoint is not None:
            raise UserError(
                "--out is a file of recorded episodes, and beside a dream nothing is recorded: leave out one of --out, --checkpoint"
            )
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port {self.port} must be 0 to 65535")
        for name in ("image_size", "record_size"):
            if not 16 <= getattr(self, name) <= 2048:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 16 to 2048")
        if self.max_steps < 1:
            raise UserError(f"--max-steps {self.max_steps} must be at least 1")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed} must be at least 0")

    @property
    def path(self) -> Path:
        """The file that will be written."""
        return Path(self.out) if self.out is not None else datasets_dir() / f"{str(self.task).rsplit('/', 1)[-1]}-driven.h5"


def main(config: PlayConfig) -> None:
    """Serve the page until Ctrl-C, then say what was recorded."""
    need_web_packages()
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(listen(config.port))
        if config.checkpoint is None:
            controller = stack.enter_context(open_controller(config))
            station = Station(controller, {"/": FOLDER / "play.html", **SHARED})
            what, ends = config.task, "ends and saves"
        else:
            from worldmodel.agents.dream_controller import open_dream  # imports torch

            opened = open_dream(config.checkpoint, config.task, config.seed, config.variation, config.dream_only, config.device)
            dream = stack.enter_context(opened)
            station = Station(dream, {"/": FOLDER / "play_dream.html", **SHARED}, dream.downloads)
            what, ends = f"the dream of {config.checkpoint}", "ends"
        url = f"http://{HOSTS[0]}:{listening.getsockname()[1]}"
        print(f"drive {what} at {url} (Ctrl-C {ends})", flush=True)
        if config.browser and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            serve(station, listening)
    if config.checkpoint is not None:
        return
    if config.path.exists():
        print(f"{config.path}: {controller.file.saved} episodes, {controller.kept} of them driven now")
        print(f"next: {command('codec', '--data', config.path)}")
    else:
        print("nothing was recorded")


@contextlib.contextmanager
def open_controller(config: PlayConfig) -> Iterator[TeleopController]:
    """Open a `TeleopController` whose recording ends up in the file, however the block ends."""
    task = make_task(str(config.task), image_size=config.record_size)
    same = config.image_size == config.record_size or not task.restorable
    view = task if same else make_task(str(config.task), image_size=config.image_size)
    try:
        recording = CollectConfig(
            str(config.task), image_size=config.record_size, variation=config.variation, policies={"random": 1.0}
        )
        facts = warm_up(task, recording)
        with TeleopFile(config.path, str(config.task), facts) as file:
            controller = TeleopController(TeleopSession(task, config.seed, config.variation, len(file)), view, file, config.max_steps)
            try:
                yield controller
            finally:
                controller.keep()
    finally:
        view.close()
        task.close()


if __name__ == "__main__":
    sys.exit(run_verb("play", lambda: main, sys.argv[1:]))
