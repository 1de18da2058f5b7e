"""Drawings (SVG) to pixels, in a process of their own: one that hangs, crashes or takes all memory is a bad drawing and no more.

The renderer is native code that nothing can interrupt: a few hundred nested groups end its process, a filter can keep it busy for
hours. Each thread has one such process, which is started with its first drawing and ends with the thread or its parent.
"""

import importlib.util
import os
import select
import struct
import subprocess
import sys
import threading
import time
import weakref

from worldmodel.datasets.pictures.skipped_pairs import BadPairError
from worldmodel.errors import UserError

SECONDS = 10.0
"""Time that a drawing gets."""
START_SECONDS = 60.0
"""Time that the process gets to start, on a machine that is busy."""
MEMORY = 2**32
"""Bytes of address space that the process gets."""
MAX_BYTES = 2**24
"""Longest drawing."""
PROGRAM = f"""
import resource, struct, sys
import resvg_py
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # a drawing may name other files as its pictures: none can be opened
given, answer = sys.stdin.buffer, sys.stdout.buffer
answer.write(struct.pack("<BI", 0, 0))
answer.flush()
while head := given.read(8):
    size, length = struct.unpack("<II", head)
    svg = given.read(length).decode("utf8")
    try:
        said = 0, bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True))
    except (ValueError, RuntimeError) as error:
        said = 1, str(error).encode()
    answer.write(struct.pack("<BI", said[0], len(said[1])) + said[1])
    answer.flush()
"""
"""What the process runs: requests (size, length, SVG) in, answers (failed, length, PNG or reason) out."""


def svg_to_png(svg: str, size: int) -> bytes:
    """Draw an SVG on white as a PNG file whose longer side has `size` pixels.

    Raises:
        BadPairError: it is not a valid SVG, too long, or takes too long, too much memory or the renderer's life.
        UserError: the renderer is not installed.
    """
    data = svg.encode("utf8", errors="replace")
    if len(data) > MAX_BYTES:
        raise BadPairError(f"the drawing has {len(data):,} bytes, more than {MAX_BYTES:,}")
    failed, answer = _renderer().draw(data, size)
    if failed:
        reason = (answer.decode(errors="replace").strip().splitlines() or ["no reason given"])[0]
        raise BadPairError(f"the drawing is not a valid SVG: {reason[:200]}")
    return answer


class _Renderer:
    """The process of one thread."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        command = [sys.executable, "-I", "-c", PROGRAM]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        self._waiting = select.poll()
        self._waiting.register(self._process.stdout, select.POLLIN)
        self.end = weakref.finalize(self, _end, self._process, self.owner)
        try:
            self._answer(START_SECONDS)
        except BadPairError as error:
            raise UserError(f"the renderer of drawings (SVG) does not start: try `{sys.executable} -c 'import resvg_py'`") from error

    def draw(self, data: bytes, size: int) -> tuple[int, bytes]:
        """Return whether it failed, and the PNG or the reason."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(struct.pack("<II", size, len(data)) + data)
            self._process.stdin.flush()
        except OSError as error:
            self.end()
            raise BadPairError("the drawing makes the renderer crash") from error
        return self._answer(SECONDS)

    def _answer(self, seconds: float) -> tuple[int, bytes]:
        deadline = time.monotonic() + seconds
        failed, length = struct.unpack("<BI", self._read(5, deadline))
        return failed, self._read(length, deadline)

    def _read(self, count: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        parts = bytearray()
        source = self._process.stdout.fileno()
        while len(parts) < count:
            left = deadline - time.monotonic()
            if left <= 0 or not self._waiting.poll(1000 * left):
                self.end()
                raise BadPairError(f"the drawing takes longer than {SECONDS:.0f} s")
            part = os.read(source, count - len(parts))
            if not part:
                self.end()
                raise BadPairError("the drawing makes the renderer crash")
            parts += part
        return bytes(parts)


def _end(process: "subprocess.Popen[bytes]", owner: int) -> None:
    """End the process, unless a fork has only a copy of its parent's."""
    if os.getpid() != owner:
        return
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was not yet taken
                pass
    process.wait()


def need_resvg() -> None:
    """Refuse to go on, with a UserError, where no drawing can be read: the package resvg-py is missing."""
    if importlib.util.find_spec("resvg_py") is None:
        raise UserError("drawings (SVG) need the package resvg-py: pip install 'worldmodel[pictures]'")


_of_thread = threading.local()


def _renderer() -> _Renderer:
    found: _Renderer | None = getattr(_of_thread, "renderer", None)
    if found is None or not found.end.alive or found.owner != os.getpid():
        need_resvg()
        found = _of_thread.renderer = _Renderer()
    return found
