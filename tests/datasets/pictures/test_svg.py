"""Drawings that hang, crash or swallow memory cost a moment and nothing else."""

import gc
import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.waiting import is_running, wait_for
from worldmodel.datasets.pictures import svg
from worldmodel.datasets.pictures.images import ImageTransform, decode_picture
from worldmodel.datasets.pictures.skipped_pairs import BadPairError

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10">'
RED = f'{HEAD}<rect width="10" height="10" fill="#ff0000"/></svg>'
NESTED = HEAD + "<g>" * 100_000 + "<rect/>" + "</g>" * 100_000 + "</svg>"
ENDLESS = (
    f'{HEAD}<filter id="f"><feTurbulence baseFrequency="0.1" numOctaves="1000000"/></filter>'
    '<rect filter="url(#f)" width="10" height="10"/></svg>'
)


def is_red(png: bytes, size: int) -> bool:
    return bool((np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) == (255, 0, 0)).all(axis=(1, 2)).sum() == size)


def test_a_drawing_becomes_a_picture() -> None:
    assert is_red(svg.svg_to_png(RED, 16), 16) and is_red(svg.svg_to_png(RED, 300), 300)
    with pytest.raises(BadPairError, match="not a valid SVG: .+"):
        svg.svg_to_png(f"{HEAD}<g></svg>", 16)
    with pytest.raises(BadPairError, match="more than 16,777,216"):
        svg.svg_to_png(RED + " " * 2**24, 16)


def test_one_that_crashes_the_renderer_is_one_bad_drawing() -> None:
    for _ in range(2):
        with pytest.raises(BadPairError, match="crash"):
            decode_picture(NESTED.encode(), ImageTransform(16))
        assert is_red(svg.svg_to_png(RED, 16), 16), "the next drawing has a renderer again"


def test_one_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    svg.svg_to_png(RED, 16)
    monkeypatch.setattr(svg, "SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(BadPairError, match="takes longer than"):
        svg.svg_to_png(ENDLESS, 64)
    assert time.monotonic() - began < 60
    monkeypatch.undo()
    assert is_red(svg.svg_to_png(RED, 16), 16)


def test_each_thread_has_its_own_renderer_that_ends_with_it() -> None:
    pids, both = set(), threading.Barrier(2)

    def draw(_: int) -> bool:
        both.wait()
        red = all(is_red(svg.svg_to_png(RED, size), size) for size in range(16, 24))
        pids.add(svg._renderer()._process.pid)
        return red

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(draw, range(2)))
    assert len(pids) == 2
    gc.collect()
    wait_for(lambda: not any(map(is_running, pids)), "the renderers of threads that have ended")


def test_a_fork_does_not_draw_with_its_parents_renderer() -> None:
    svg.svg_to_png(RED, 16)
    ours = svg._renderer()._process.pid
    child = os.fork()
    if child == 0:  # nothing may reach pytest from here
        try:
            fine = is_red(svg.svg_to_png(RED, 16), 16) and svg._renderer()._process.pid != ours
            svg._renderer().end()
        finally:
            os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert svg._renderer()._process.pid == ours and is_red(svg.svg_to_png(RED, 16), 16)
