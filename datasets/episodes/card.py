"""The data card: a page of Markdown next to an episode file that says what is in it. Every fact comes from the file."""

from collections.abc import Sequence
from pathlib import Path

from worldmodel.datasets.atomic import write_atomic
from worldmodel.datasets.episodes.inspection import (
    COLUMN_HEADERS,
    COMPONENT_HEADERS,
    FACTOR_HEADERS,
    TableRow,
    column_rows,
    component_rows,
    factor_rows,
    facts,
)
from worldmodel.datasets.episodes.statistics import column_statistics
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError

CONVENTION = (
    "`actions[t]` leaves `frames[t]` and arrives at `frames[t + 1]`: an episode of T actions has T + 1 frames, and nothing is padded."
)
HOW = {
    "policies": "who acted: {}",
    "seeds": "seeds of the environment: {}",
    "success": "{}",
    "origin": "{}",
}
"""Facts about the collection, as sentences."""


def write_card(path: Path) -> Path:
    """Write the data card `<stem>.md` next to an episode file and return its path.

    Raises:
        UserError: the file is missing, damaged or not an episode file; the page that is there is no data card of it.
    """
    out = path.with_suffix(".md")
    with EpisodeStore(path) as store:
        if out.exists() and not out.read_bytes().startswith(_title(store.path).encode()):
            raise UserError(f"{out} exists and is not the data card of {path}; move it or rename the episode file")
        page = card(store)
    write_atomic(out, page.encode())
    return out


def _title(path: Path) -> str:
    return f"# {path.name}\n"


def card(store: EpisodeStore) -> str:
    """Write the data card of an episode file, in Markdown."""
    known = dict(facts(store))
    statistics = column_statistics(store)
    what = [(name, text) for name, text in known.items() if name not in (*HOW, "file", "licence")]
    how = [form.format(known[name]) for name, form in HOW.items()]
    recipe = store.meta.get("recipe") or store.meta.get("repaired_from", {}).get("recipe")
    if isinstance(recipe, dict):
        how.append(
            "settings: " + ", ".join(f"`{name}={value}`" for name, value in sorted(recipe.items()) if value not in (None, [], {}))
        )
    factors = factor_rows(store)
    parts = [
        _title(store.path).rstrip(),
        f"{len(store)} episodes of `{known['environment']}`: {known['frames'].replace(' of ', ' frames of ')}.",
        *_section("What is in it", _table([("fact", "value"), *what])),
        *_section("How it was collected", "\n".join(f"- {sentence}" for sentence in how)),
        *_section("Factors of variation", _table([FACTOR_HEADERS, *factors]) if factors else "None was recorded."),
        *_section("Columns", CONVENTION, _table([COLUMN_HEADERS, *column_rows(store, statistics)])),
        *_section("Components", _table([COMPONENT_HEADERS, *component_rows(store, statistics)])),
        *_section("Examples of its language", _examples(store)),
        *_section("Licence", f"{known['licence'][:1].upper()}{known['licence'][1:]}."),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, *paragraphs: str) -> list[str]:
    """Return the lines of a section; nothing when there is nothing to say."""
    return [f"## {title}", *paragraphs] if all(paragraphs) else []


def _table(rows: Sequence[TableRow]) -> str:
    """Write a table with a row of headers in Markdown; nothing when there are headers alone."""
    if len(rows) < 2:
        return ""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _examples(store: EpisodeStore) -> str:
    """Say what is recorded of the first step of the first episode."""
    question, answer = store.question(0, 0)
    said = {
        "caption": store.caption(0, 0),
        "question": f"{question} {answer}",
        "action": store.action_words(0, 0),
        "change": store.change(0, 0),
        "goal": store.goal_text(0),
    }
    return "\n".join(f"- {kind}: {text.strip()}" for kind, text in said.items() if text.strip())
