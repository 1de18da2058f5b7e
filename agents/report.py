"""One self-contained HTML page, and the same facts as JSON.

A report is a list of sections: text, tables, pictures, curves, videos. Everything is embedded as data, so the
file can be mailed or opened years later without anything beside it. `report.html` shows a section by its `kind`. Nothing here knows
what the numbers mean.
"""

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure

from worldmodel.datasets.films import write_film
from worldmodel.datasets.outputs import json_bytes, write_output
from worldmodel.datasets.pages import data_url, render
from worldmodel.datasets.video import encode_png

TEMPLATE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class TextSection:
    """A paragraph; a blank line starts a new one."""

    kind: ClassVar[str] = "text"
    title: str
    """Heading; may be empty."""
    text: str
    """Plain text."""


@dataclass(frozen=True)
class Table:
    """Rows of cells."""

    kind: ClassVar[str] = "table"
    title: str
    """Heading."""
    headers: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[str | int | float]]
    """Cells; floats are shown with three digits."""
    note: str = ""
    """What the reader must know to read it."""

    def __post_init__(self) -> None:
        """Raise ValueError when a row has more or fewer cells than there are columns."""
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"table '{self.title}': row {row} does not have {len(self.headers)} cells")


@dataclass(frozen=True)
class Picture:
    """One picture, shown without smoothing."""

    kind: ClassVar[str] = "picture"
    title: str
    """Heading."""
    pixels: np.ndarray
    """uint8 (height, width, 3)"""
    note: str = ""
    """Caption."""
    scale: int = 2
    """Screen pixels per pixel."""

    @property
    def width(self) -> int:
        """On the screen, pixels."""
        return self.pixels.shape[1] * self.scale

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        return data_url("image/png", encode_png(self.pixels))


@dataclass(frozen=True)
class Curves:
    """Lines over a common axis."""

    kind: ClassVar[str] = "plot"
    title: str
    """Heading."""
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    """x and y values of each line, by name."""
    x_label: str
    """With its unit."""
    y_label: str
    """With its unit."""
    log_y: bool = False
    """Logarithmic y axis."""
    note: str = ""
    """Caption."""

    @property
    def source(self) -> str:
        """The drawing as a data URL."""
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, (x, y) in self.curves.items():
            axes.plot(x, y, label=name, linewidth=1.6, marker="o" if len(x) <= 20 else None, markersize=4)
        axes.set(xlabel=self.x_label, ylabel=self.y_label, yscale="log" if self.log_y else "linear")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        return _svg_url(figure)


@dataclass(frozen=True)
class Intervals:
    """A dot with its interval for each name: success rates and those of their controls."""

    kind: ClassVar[str] = "plot"
    title: str
    """Heading."""
    values: dict[str, tuple[float, float, float]]
    """Low end, value, high end of each, by name."""
    x_label: str
    """With its unit."""
    note: str = ""
    """Caption."""

    @property
    def source(self) -> str:
        """The drawing as a data URL."""
        figure = Figure(figsize=(7, 0.8 + 0.38 * len(self.values)), layout="constrained")
        axes = figure.subplots()
        low, value, high = np.array(list(self.values.values())).T
        places = np.arange(len(value))[::-1]
        axes.errorbar(value, places, xerr=np.maximum(0, [value - low, high - value]), fmt="o", capsize=4)
        axes.set(xlabel=self.x_label, ylim=(-0.6, len(value) - 0.4))
        axes.set_yticks(places, list(self.values))
        axes.grid(axis="x", alpha=0.3)
        return _svg_url(figure)


@dataclass(frozen=True)
class Video:
    """A looping film."""

    kind: ClassVar[str] = "video"
    title: str
    """Heading."""
    mp4: bytes
    """The file's content, from `video_bytes` or a path's `read_bytes()`."""
    note: str = ""
    """Caption."""
    width: int = 384
    """On the screen, pixels."""

    @property
    def source(self) -> str:
        """The film as a data URL."""
        return data_url("video/mp4", self.mp4)


@dataclass(frozen=True)
class SectionRow:
    """Sections laid out side by side."""

    kind: ClassVar[str] = "row"
    title: str
    """Heading above all of them; may be empty."""
    sections: Sequence["Section"] = field(default_factory=list)
    """What stands in the row."""


Section = TextSection | Table | Picture | Curves | Intervals | Video | SectionRow


def write_report(
    path: Path,
    sections: Sequence[Section],
    title: str = "worldmodel report",
    data: dict[str, Any] | None = None,
) -> None:
    """Write `path` (HTML) and, if there is `data`, a JSON file with the same stem in the same folder.

    Args:
        path: ends in .html.
        sections: in reading order.
        title: of the page.
        data: JSON values: everything a program would want to know.
    """
    write_output(path, render(TEMPLATE, title=title, sections=sections))
    if data is not None:
        write_output(path.with_suffix(".json"), json_bytes(data, indent=1))


def video_bytes(frames: np.ndarray) -> bytes:
    """Encode frames uint8 (t, height, width, 3) as an mp4 (H.264), as `write_film` shows them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_film(path, frames)
        return path.read_bytes()


def _svg_url(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_url("image/svg+xml", buffer.getvalue())
