"""One self-contained HTML page, and the same facts as JSON.

A report is a list of sections: text, tables, pictures, curves, videos. Everything is embedded as data, so the
file can be mailed or opened years later without anything beside it. Nothing here knows what the numbers mean.
"""

import base64
import html
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from worldmodel.datasets.films import write_film
from worldmodel.datasets.outputs import MARK, json_bytes, write_output
from worldmodel.datasets.video import encode_png


@dataclass(frozen=True)
class TextSection:
    """A paragraph; a blank line starts a new one."""

    title: str
    """Heading; may be empty."""
    text: str
    """Plain text."""


@dataclass(frozen=True)
class Table:
    """Rows of cells."""

    title: str
    """Heading."""
    headers: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[str | int | float]]
    """Cells; floats are shown with three digits."""
    note: str = ""
    """What the reader must know to read it."""


@dataclass(frozen=True)
class Picture:
    """One picture, shown without smoothing."""

    title: str
    """Heading."""
    pixels: np.ndarray
    """uint8 (height, width, 3)"""
    note: str = ""
    """Caption."""
    scale: int = 2
    """Screen pixels per pixel."""


@dataclass(frozen=True)
class Curves:
    """Lines over a common axis."""

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


@dataclass(frozen=True)
class Intervals:
    """A dot with its interval for each name: success rates and those of their controls."""

    title: str
    """Heading."""
    values: dict[str, tuple[float, float, float]]
    """Low end, value, high end of each, by name."""
    x_label: str
    """With its unit."""
    note: str = ""
    """Caption."""


@dataclass(frozen=True)
class Video:
    """A looping film."""

    title: str
    """Heading."""
    mp4: bytes
    """The file's content, from `video_bytes` or a path's `read_bytes()`."""
    note: str = ""
    """Caption."""
    width: int = 384
    """On the screen, pixels."""


@dataclass(frozen=True)
class SectionRow:
    """Sections laid out side by side."""

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
    body = "\n".join(_render(section) for section in sections)
    page = f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='generator' content='{MARK}'>"
    page += f"<title>{html.escape(title)}</title>"
    page += f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    write_output(path, page.encode())
    if data is not None:
        write_output(path.with_suffix(".json"), json_bytes(data, indent=1))


def video_bytes(frames: np.ndarray) -> bytes:
    """Encode frames uint8 (t, height, width, 3) as an mp4 (H.264), as `write_film` shows them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_film(path, frames)
        return path.read_bytes()


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } th { background: var(--soft); }
figure { margin: 0; } figcaption, .note { color: #777; font-size: .85rem; max-width: 45rem; } img, video {
max-width: 100%; } .pixels { image-rendering: pixelated; } .plot { background: #fff; border-radius: 4px; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } .row h2 { font-size: .95rem; margin: .3rem 0; } .wide {
overflow-x: auto; }
"""


def _render(section: Section) -> str:
    heading = f"<h2>{html.escape(section.title)}</h2>" if section.title else ""
    return f"<section>{heading}{_content(section)}</section>"


def _content(section: Section) -> str:
    match section:
        case TextSection():
            return "".join(f"<p>{html.escape(part)}</p>" for part in section.text.split("\n\n"))
        case Table():
            return _table(section)
        case Picture():
            source = _data_uri("image/png", encode_png(section.pixels))
            width = section.pixels.shape[1] * section.scale
            return _figure(f"<img class='pixels' width='{width}' src='{source}'>", section.note)
        case Curves():
            return _figure(f"<img class='plot' src='{_data_uri('image/svg+xml', _plot(section))}'>", section.note)
        case Intervals():
            return _figure(
                f"<img class='plot' src='{_data_uri('image/svg+xml', _plot_intervals(section))}'>",
                section.note,
            )
        case Video():
            source = _data_uri("video/mp4", section.mp4)
            flags = "autoplay loop muted controls playsinline"
            tag = f"<video width='{section.width}' {flags} src='{source}'></video>"
            return _figure(tag, section.note)
        case SectionRow():
            return f"<div class='row'>{''.join(_render(each) for each in section.sections)}</div>"


def _table(table: Table) -> str:
    for row in table.rows:
        if len(row) != len(table.headers):
            raise ValueError(f"table '{table.title}': row {row} does not have {len(table.headers)} cells")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.headers)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f"<p class='note'>{html.escape(table.note)}</p>" if table.note else ""
    return f"<div class='wide'><table><tr>{head}</tr>{body}</table></div>{note}"


def _cell(cell: str | int | float) -> str:
    return html.escape(f"{cell:.3g}" if isinstance(cell, float) else str(cell))


def _figure(content: str, note: str) -> str:
    caption = f"<figcaption>{html.escape(note)}</figcaption>" if note else ""
    return f"<figure>{content}{caption}</figure>"


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _plot(section: Curves) -> bytes:
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in section.curves.items():
        axes.plot(x, y, label=name, linewidth=1.6, marker="o" if len(x) <= 20 else None, markersize=4)
    axes.set(xlabel=section.x_label, ylabel=section.y_label, yscale="log" if section.log_y else "linear")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return _svg(figure)


def _plot_intervals(section: Intervals) -> bytes:
    figure = Figure(figsize=(7, 0.8 + 0.38 * len(section.values)), layout="constrained")
    axes = figure.subplots()
    low, value, high = np.array(list(section.values.values())).T
    places = np.arange(len(value))[::-1]
    axes.errorbar(value, places, xerr=np.maximum(0, [value - low, high - value]), fmt="o", capsize=4)
    axes.set(xlabel=section.x_label, ylim=(-0.6, len(value) - 0.4))
    axes.set_yticks(places, list(section.values))
    axes.grid(axis="x", alpha=0.3)
    return _svg(figure)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
