"""The server of a page from which a task is driven: the clock, the open pages, and who may look.

Needs the extra `play`.
"""

import asyncio
import contextlib
import functools
import json
import mimetypes
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from worldmodel.datasets.collection.page_controller import PageController
from worldmodel.errors import UserError

if TYPE_CHECKING:  # an optional extra
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

HOSTS = ("127.0.0.1", "localhost")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
"""Of what a page is made of; what an operating system thinks of a file's ending may be something else."""
FRESH = {"Cache-Control": "no-cache"}
"""Headers: the page of another version is not shown from a cache."""
SECONDS_TO_TELL = 1.0
"""Time that a page gets to take a message; the others wait meanwhile."""


def need_web_packages() -> None:
    """Refuse to go on without the extra `play`."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise UserError(f"worldmodel play needs the package {error.name}: pip install 'worldmodel[play]'") from error


def listen(port: int) -> socket.socket:
    """Listen on a port of this machine that is not reached from elsewhere; 0: any free one.

    Raises:
        UserError: it is in use, or may not be used.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOSTS[0], port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UserError(f"cannot use port {port}: {error.strerror}; choose another --port, or 0 for any free one") from error
    return listening


class Station:
    """Runs the clock of a controller and sends every open page what it shows.

    All that touches the task runs in one thread: OpenGL contexts belong to threads.

    Args:
        controller: what is driven.
        files: what is served under which path; the page is at `/`.
        downloads: what is made when it is asked for, in another thread, under which path.
    """

    def __init__(
        self, controller: PageController, files: Mapping[str, Path], downloads: Mapping[str, Callable[[], bytes]] | None = None
    ) -> None:
        self._cockpit, self._files, self._downloads = controller, files, downloads or {}
        self._pages: set[WebSocket] = set()
        self._driver: WebSocket | None = None  # the page whose keys are held
        self._wake = asyncio.Event()
        self.failure: Exception | None = None
        self.stop: Callable[[], None] = lambda: None
        """Called when the clock has failed: the server shall end."""

    def app(self) -> "Starlette":
        """Build the web application: the page, what belongs to it, and the socket that its script opens."""
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import FileResponse
        from starlette.routing import Route, WebSocketRoute

        routes: list[Any] = [WebSocketRoute("/socket", self._talk)]
        for place, path in self._files.items():
            routes.append(Route(place, lambda request, path=path: FileResponse(path, headers=FRESH, media_type=TYPES[path.suffix])))
        for place, make in self._downloads.items():
            routes.append(Route(place, functools.partial(_download, make)))
        # Other sites, open in the same browser, must neither drive nor look.
        guard = Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))
        return Starlette(routes=routes, middleware=[guard], lifespan=self._lifespan)

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
            due = loop.time() + self._cockpit.tick_seconds
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


async def _download(make: Callable[[], bytes], request: "Request") -> "Response":
    """Answer with what is made, as a file to keep; with a sentence where there is nothing to make it of."""
    from starlette.responses import PlainTextResponse, Response

    try:
        data = await asyncio.to_thread(make)
    except UserError as error:
        return PlainTextResponse(str(error), status_code=409)
    name = request.url.path.rpartition("/")[2]
    headers = {"Content-Disposition": f'attachment; filename="{name}"', **FRESH}
    return Response(data, headers=headers, media_type=mimetypes.guess_type(name)[0])


def serve(station: Station, listening: socket.socket) -> None:
    """Serve the page until Ctrl-C, which arrives as KeyboardInterrupt."""
    import uvicorn

    config = uvicorn.Config(station.app(), log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    station.stop = stop
    server.run(sockets=[listening])
    if station.failure is not None:
        raise station.failure
