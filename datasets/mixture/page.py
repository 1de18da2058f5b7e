"""One self-contained HTML page with samples of every source of a mixture: what is given and what is learned, as pictures and text."""

import base64
import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worldmodel.datasets.mixture.documents import Action, Document, Frame, NextActions, Steps, Text
from worldmodel.datasets.mixture.stats import HEADERS, MixtureStats, as_rows
from worldmodel.datasets.outputs import MARK
from worldmodel.datasets.video import encode_png

LEAST_WIDTH = 96
"""Screen pixels that a frame is wide, at least; it is enlarged by a whole number."""
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --given: #3b82c4; --learnt: #d9822b; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .1rem; }
nav a { margin-right: .9rem; } .note { color: #888; font-size: .85rem; max-width: 60rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { background: var(--soft); }
th:nth-child(-n+2), td:nth-child(-n+2), th:last-child, td:last-child { text-align: left; }
.documents { display: flex; flex-wrap: wrap; gap: .7rem; }
.document { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem; padding: .6rem; background: var(--soft);
  border-radius: 8px; }
td:nth-child(-n+2) { white-space: nowrap; }
p:only-child { max-width: 33rem; }
figure { margin: 0; text-align: center; } figcaption { font-size: .7rem; color: #888; line-height: 1.2; }
img { display: block; image-rendering: pixelated; border: 3px solid; border-radius: 4px; }
p { margin: 0; padding: .3rem .6rem; border-left: 4px solid; max-width: 16rem; white-space: pre-wrap;
  overflow-wrap: anywhere; background: var(--soft); border-radius: 4px; }
.action { font-size: .72rem; line-height: 1.3; max-width: 10rem; text-align: center; color: #888; }
.action b { display: block; color: var(--given); font-weight: 600; }
.key { border-left: 4px solid; padding: 0 .5rem; margin-right: 1rem; }
.given { border-color: var(--given); } .learnt { border-color: var(--learnt); }
"""


@dataclass(frozen=True)
class Numbered:
    """A document whose frames have numbers on the page."""

    document: Document
    frames: tuple[int, ...]
    """One number per frame."""


def mixture_page(table: Sequence[MixtureStats], samples: Mapping[str, Sequence[Numbered]], note: str) -> str:
    """Write the page of a mixture.

    Args:
        table: what was drawn of each source.
        samples: documents of each source, by its name.
        note: what the reader must know to read the table.
    """
    links = "".join(f"<a href='#{i}'>{html.escape(each.source)}</a>" for i, each in enumerate(table))
    keys = "<span class='key given'>given to the model</span><span class='key learnt'>learned: the loss is here</span>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in HEADERS)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in as_rows(table))
    sections = "\n".join(_section(i, each, samples[each.source]) for i, each in enumerate(table))
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='generator' content='{MARK}'><title>mixture</title>"
        f"<style>{STYLE}</style></head>\n<body><h1>What the mixture gives</h1><nav>{links}</nav>"
        f"<h2>Drawn</h2><div class='wide'><table><tr>{head}</tr>{rows}</table></div>"
        f"<div class='note'>{html.escape(note)}</div><h2>How to read the samples</h2><div>{keys}</div>\n{sections}\n</body></html>\n"
    )


def _section(number: int, stats: MixtureStats, samples: Sequence[Numbered]) -> str:
    share = f"{stats.asked:.2%} of the tokens asked for, {stats.share:.2%} drawn"
    facts = f"{stats.kind}, {stats.items:,} items, {share}; license: {stats.licence}"
    documents = "".join(f"<div class='document'>{_document(each)}</div>" for each in samples)
    title = f"<h2 id='{number}'>{html.escape(stats.source)}</h2><div class='note'>{html.escape(facts)}</div>"
    return f"<section>{title}<div class='documents'>{documents}</div></section>"


def _document(numbered: Numbered) -> str:
    numbers = iter(numbered.frames)
    return "".join(_frame(each, next(numbers)) if isinstance(each, Frame) else _words(each) for each in numbered.document)


def _frame(frame: Frame, number: int) -> str:
    height, width = frame.pixels.shape[:2]
    scale = max(1, -(-LEAST_WIDTH // width))
    image = f"<img class='{_role(frame.predict)}' width='{width * scale}' height='{height * scale}' src='{_png(frame)}'>"
    return f"<figure>{image}<figcaption>#{number}</figcaption></figure>"


def _words(segment: Text | Action | Steps | NextActions) -> str:
    if isinstance(segment, Text):
        return f"<p class='{_role(segment.predict)}'>{html.escape(segment.text)}</p>"
    if isinstance(segment, Steps):
        met = "" if segment.first is None else f", first met after {segment.first}"
        return f"<p class='{_role(segment.predict)}'>in {segment.count} steps{met}</p>"
    if isinstance(segment, NextActions):
        known = segment.vectors.reshape(-1)[: segment.known]
        return f"<p class='learnt'>next actions: {' '.join(f'{number:+.2f}' for number in known)}</p>"
    words, numbers = ("<br>".join(map(html.escape, counted(text))) for text in (segment.words, segment.text))
    return f"<div class='action'><b>{words} &rarr;</b>{numbers}</div>"


def counted(text: str) -> list[str]:
    """List the texts of a block of actions, repeated ones once with their number."""
    groups = [(each.removeprefix("action: "), len(list(group))) for each, group in itertools.groupby(text.split("; "))]
    return [f"{each} ×{count}" if count > 1 else each for each, count in groups]


def _role(predict: bool) -> str:
    return "learnt" if predict else "given"


def _png(frame: Frame) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(frame.pixels)).decode()}"
