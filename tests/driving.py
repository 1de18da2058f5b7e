"""What the tests of pages share on which something is driven: its clock, its pictures, and the page in a browser."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from worldmodel.datasets.collection.page_controller import PageController


def run(controller: PageController, at_most: int = 100) -> int:
    """Lets the time run until nothing moves; the number of ticks."""
    for ticks in range(at_most):
        if not controller.moving:
            return ticks
        controller.tick()
    return at_most


def picture(url: str) -> np.ndarray:
    """The pixels (h, w, 3) of a data URL, as numbers that can be subtracted."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))), int)


class Page:
    """A page in a browser."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def at(self, name: str) -> Any:
        """The element of an id."""
        return self.browser.find_element("id", name)

    def pixels(self, name: str) -> list[int]:
        """The numbers of a canvas: red, green, blue, alpha of each pixel."""
        canvas = f"const c = document.getElementById('{name}');"
        return self.browser.execute_script(f"{canvas} return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")

    @property
    def step(self) -> int:
        """How many steps the page says were done."""
        return int(self.at("step").text)
