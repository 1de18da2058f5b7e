"""Texts cut into chunks at paragraphs and sentences."""

import re

_PARAGRAPH_END = re.compile(r"\n\s*\n\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+")
_SPACE = re.compile(r"\s+")


def chunk_text(text: str, chunk: int) -> list[str]:
    """Cut a text into chunks of at most `chunk` characters.

    A chunk holds as many whole paragraphs as fit; a paragraph that is too long is cut between sentences, a
    sentence that is too long between words, and a word that is too long anywhere. Only blank space is lost.
    """
    if chunk < 1:
        raise ValueError(f"a chunk holds at least 1 character, got {chunk}")
    return _fill(_PARAGRAPH_END.split(text.strip()), chunk, "\n\n", (_SENTENCE_END, _SPACE))


def _fill(units: list[str], chunk: int, joint: str, finer: tuple[re.Pattern[str], ...]) -> list[str]:
    """Join neighboring units while they fit; cut one that is too long with the first finer pattern."""
    chunks: list[str] = []
    current = ""
    for unit in filter(None, units):
        joined = f"{current}{joint}{unit}" if current else unit
        if len(joined) <= chunk:
            current = joined
            continue
        if current:
            chunks.append(current)
        current = unit
        if len(unit) > chunk:
            *whole, current = _cut(unit, chunk, finer)  # what is left of the unit is joined to the next
            chunks += whole
    return [*chunks, current] if current else chunks


def _cut(unit: str, chunk: int, patterns: tuple[re.Pattern[str], ...]) -> list[str]:
    if not patterns:
        return [unit[i : i + chunk] for i in range(0, len(unit), chunk)]
    return _fill(_split_after(patterns[0], unit), chunk, " ", patterns[1:])


def _split_after(pattern: re.Pattern[str], text: str) -> list[str]:
    """Split where the pattern ends; what it matched, but for blank space, stays with the text before."""
    ends = [match.end() for match in pattern.finditer(text)]
    return [text[a:b].strip() for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
