"""One self-contained HTML page with samples of every source of a mixture: what is given and what is learned, as pictures and text."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.datasets.mixture.documents import Action, Document, Frame, NextActions, Steps, Text
from worldmodel.datasets.mixture.stats import HEADERS, MixtureStats, as_rows
from worldmodel.datasets.pages import data_url, render
from worldmodel.datasets.video import encode_png

TEMPLATE = Path(__file__).with_suffix(".html")
LEAST_WIDTH = 96
"""Screen pixels that a frame is wide, at least; it is enlarged by a whole number."""


@dataclass(frozen=True)
class Numbered:
    """A document whose frames have numbers on the page."""

    document: Document
    frames: tuple[int, ...]
    """One number per frame."""


def mixture_page(table: Sequence[MixtureStats], samples: Mapping[str, Sequence[Numbered]], note: str) -> bytes:
    """Write the page of a mixture: what was drawn of each source, documents of each by its name, and how to read the table."""
    shown = {name: [list(_segments(each)) for each in documents] for name, documents in samples.items()}
    return render(TEMPLATE, title="mixture", table=table, headers=HEADERS, rows=as_rows(table), samples=shown, note=note)


def _segments(numbered: Numbered) -> Iterator[dict[str, Any]]:
    """Say of each segment what the template shows."""
    numbers = iter(numbered.frames)
    for segment in numbered.document:
        if isinstance(segment, Action):
            yield {"kind": "action", "words": counted(segment.words), "numbers": counted(segment.text)}
            continue
        predict = isinstance(segment, NextActions) or segment.predict
        role = {"role": "learnt" if predict else "given"}
        match segment:
            case Frame():
                height, width = segment.pixels.shape[:2]
                scale = max(1, -(-LEAST_WIDTH // width))
                source = data_url("image/png", encode_png(segment.pixels))
                picture = {"number": next(numbers), "width": width * scale, "height": height * scale, "source": source}
                yield {"kind": "frame"} | role | picture
            case Text():
                yield {"kind": "text", "text": segment.text} | role
            case Steps():
                yield {"kind": "text", "text": steps_in_words(segment)} | role
            case NextActions():
                known = segment.vectors.reshape(-1)[: segment.known]
                yield {"kind": "text", "text": f"next actions: {' '.join(f'{number:+.2f}' for number in known)}"} | role


def steps_in_words(steps: Steps) -> str:
    """Write how far a goal is."""
    return f"in {steps.count} steps" + ("" if steps.first is None else f", first met after {steps.first}")


def counted(text: str) -> list[str]:
    """List the texts of a block of actions, repeated ones once with their number."""
    groups = [(each.removeprefix("action: "), len(list(group))) for each, group in itertools.groupby(text.split("; "))]
    return [f"{each} ×{count}" if count > 1 else each for each, count in groups]
