"""Drive a task from the keyboard in a local web page; what was driven is recorded as episodes.

The page (`play.html`) shows what `TeleopController.status` says and sends what was pressed to `TeleopController.handle_message`. Time
runs here, in `Station`: one action each `step_seconds`, as fast as in the world that is simulated.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from worldmodel.datasets.collection.recording import CollectConfig, warm_up
from worldmodel.datasets.collection.teleop_controller import TeleopController
from worldmodel.datasets.collection.teleop_session import TeleopFile, TeleopSession
from worldmodel.envs import full_id, make_task
from worldmodel.errors import UserError
from worldmodel.home import datasets_dir
from worldmodel.scripts.console import command, run_verb

if TYPE_CHECKING:  # an optional extra
    from starlette.applications import Starlette
    from starlette.websockets import WebSocket


HOSTS = ("127.0.0.1", "localhost")
SECONDS_TO_TELL = 1.0
"""Time that a page gets to take a message; the others wait meanwhile."""
PAGE = Path(__file__).with_name("play.html")


@dataclass(frozen=True)
class PlayConfig:
    """Drive a task from the keyboard in a local web page, and record what was driven.

    `worldmodel play --task PushT --out driven.h5` adds what is driven to a file.
    """

    task: str = "worldmodel/TwoRoom-v0"
    """Task: a name such as PushT, or the id of any gymnasium environment."""
    out: Path | None = None
    """File that the driven episodes are added to; by default `<task>-driven.h5` in the datasets folder of WORLDMODEL_HOME."""
    port: int = 8000
    """Port of the page on 127.0.0.1; 0 takes any free one."""
    image_size: int = 384
    """Height and width of the picture on the page, in pixels."""
    record_size: int = 64
    """Height and width of a recorded frame, in pixels."""
    seed: int = 0
    """Seed of the starts, goals and variations."""
    variation: tuple[str, ...] = ()
    """Factors of variation to sample in each episode, e.g. `disc.color`; `all` for every factor."""
    max_steps: int = 1000
    """An episode ends by itself after this many actions."""
    browser: bool = True
    """Open the page in the browser, if there is a display."""

    def __post_init__(self) -> None:
        """Refuse numbers that are out of range, by a UserError."""
        object.__setattr__(self, "task", full_id(self.task))
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
        return Path(self.out) if self.out is not None else datasets_dir() / f"{self.task.rsplit('/', 1)[-1]}-driven.h5"


def main(config: PlayConfig) -> None:
    """Serve the page until Ctrl-C, then say what was recorded."""
    _need_web_packages()
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listen(config.port))
        controller = stack.enter_context(open_controller(config))
        url = f"http://{HOSTS[0]}:{listening.getsockname()[1]}"
        print(f"drive {config.task} at {url} (Ctrl-C ends and saves)", flush=True)
        if config.browser and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            _serve(controller, listening)
    if config.path.exists():
        print(f"{config.path}: {controller.file.saved} episodes, {controller.kept} of them driven now")
        print(f"next: {command('codec', '--data', config.path)}")
    else:
        print("nothing was recorded")


def _need_web_packages() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise UserError(f"worldmodel play needs the package {error.name}: pip install 'worldmodel[play]'") from error


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOSTS[0], port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UserError(f"cannot use port {port}: {error.strerror}; choose another --port, or 0 for any free one") from error
    return listening


@contextlib.contextmanager
def open_controller(config: PlayConfig) -> Iterator[TeleopController]:
    """Open a `TeleopController` whose recording ends up in the file, however the block ends."""
    task = make_task(config.task, image_size=config.record_size)
    same = config.image_size == config.record_size or not task.restorable
    view = task if same else make_task(config.task, image_size=config.image_size)
    try:
        recording = CollectConfig(config.task, image_size=config.record_size, variation=config.variation, policies={"random": 1.0})
        facts = warm_up(task, recording)
        with TeleopFile(config.path, config.task, facts) as file:
            controller = TeleopController(TeleopSession(task, config.seed, config.variation, len(file)), view, file, config.max_steps)
            try:
                yield controller
            finally:
                controller.keep()
    finally:
        view.close()
        task.close()


class Station:
    """Runs the clock of a teleop controller and sends every open page what it shows.

    All of it runs in one thread: OpenGL contexts belong to threads.
    """

    def __init__(self, controller: TeleopController) -> None:
        self._cockpit = controller
        self._pages: set[WebSocket] = set()
        self._driver: WebSocket | None = None  # the page whose keys are held
        self._wake = asyncio.Event()
        self.failure: Exception | None = None
        self.stop: Callable[[], None] = lambda: None
        """Called when the clock has failed: the server shall end."""

    def app(self) -> "Starlette":
        """Build the web application: the page, and the socket that its script opens."""
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import HTMLResponse
        from starlette.routing import Route, WebSocketRoute

        async def page(request: Any) -> HTMLResponse:
            return HTMLResponse(PAGE.read_text(encoding="utf-8"))

        # Other sites, open in the same browser, must neither drive nor look.
        guard = Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))
        return Starlette(routes=[Route("/", page), WebSocketRoute("/socket", self._talk)], middleware=[guard], lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: "Starlette") -> AsyncIterator[None]:
        clock = asyncio.create_task(self._run_clock())
        yield
        clock.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await clock

    async def _run_clock(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._cockpit.moving:
                self._wake.clear()
                await self._wake.wait()
                continue
            due = loop.time() + self._cockpit.session.task.step_seconds
            try:
                self._cockpit.tick()
                await self._tell_all()
            except Exception as error:
                self.failure = error
                self.stop()
                return
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _talk(self, page: "WebSocket") -> None:
        from starlette.websockets import WebSocketDisconnect

        if urlsplit(page.headers.get("origin", "")).hostname not in HOSTS:
            await page.close()
            return
        await page.accept()
        self._pages.add(page)
        try:
            await page.send_json(self._cockpit.about() | self._cockpit.status())
            while True:
                message = await self._read(page)
                self._pages.add(page)
                if isinstance(message, dict) and message.get("do") in ("keys", "say"):
                    self._driver = page
                self._cockpit.handle_message(message)
                self._wake.set()
                if not self._cockpit.moving:  # else the clock tells
                    await self._tell_all()
        except WebSocketDisconnect:
            pass
        finally:
            self._pages.discard(page)
            if self._driver is page:
                self._cockpit.release()

    async def _read(self, page: "WebSocket") -> Any:
        try:
            return await page.receive_json()
        except (json.JSONDecodeError, KeyError):  # KeyError: bytes, not text
            return None

    async def _tell_all(self) -> None:
        from starlette.websockets import WebSocketDisconnect

        status = self._cockpit.status()
        for page in list(self._pages):
            try:
                await asyncio.wait_for(page.send_json(status), SECONDS_TO_TELL)
            except (RuntimeError, OSError, WebSocketDisconnect, TimeoutError):
                self._pages.discard(page)  # it is closing, which `_talk` notices, or does not read, until it speaks again


def _serve(controller: TeleopController, listening: socket.socket) -> None:
    """Serve the page until Ctrl-C, which arrives as KeyboardInterrupt."""
    import uvicorn

    station = Station(controller)
    config = uvicorn.Config(station.app(), log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    station.stop = stop
    server.run(sockets=[listening])
    if station.failure is not None:
        raise station.failure


if __name__ == "__main__":
    sys.exit(run_verb("play", lambda: main, sys.argv[1:]))
