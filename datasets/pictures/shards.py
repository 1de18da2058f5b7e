"""WebDataset shards: uncompressed tar files in which the members of a sample share a stem (`0001.jpg`, `0001.txt`).

A shard is looked through once; the index has 25 bytes a pair, and pictures and captions are read where they lie.
"""

import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from worldmodel.datasets.pictures.caches import Arrays, cached_index
from worldmodel.datasets.pictures.captions import caption_of_json, caption_of_text
from worldmodel.datasets.pictures.skipped_pairs import BadPairError, SkippedPairs, read_part
from worldmodel.errors import UserError

PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "svg")
"""The first of them that a sample has is its picture."""
TEXT_ENDINGS = ("txt", "caption", "cap")

_PAIR = np.dtype([("picture", "<i8"), ("picture_size", "<u4"), ("caption", "<i8"), ("caption_size", "<u4"), ("is_json", "u1")])
_FIRST_CAPTION, _JSON, _JSON_FIRST = 100, 200, 99
_BLOCK = 512
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_MOST_SHARDS = 1_000_000
_NAMED = 1000
"""Of so many samples that are left out the names are kept."""


class Member(NamedTuple):
    """Where a picture or caption lies in a file."""

    offset: int
    size: int
    is_exact: bool
    """Its stem is all of its name up to the first dot."""


Sample = tuple[dict[int, Member], dict[int, Member]]
"""Pictures and captions by their rank; the least one counts."""


class TarShards:
    """The pairs of some shards, in the order of the files.

    Args:
        paths: the tar files.
        caption_key: the field of the samples' `.json` that is the caption. By default a `.txt` comes first, then
            the usual fields of the `.json`.

    Raises:
        UserError: a file cannot be read or is not an uncompressed tar.
    """

    licence = "unknown"

    def __init__(self, paths: Sequence[Path], caption_key: str | None = None) -> None:
        self.name = paths[0].stem if len(paths) == 1 else f"{paths[0].stem} and {len(paths) - 1} more"
        self.skipped = SkippedPairs()
        self._paths = list(paths)
        self._caption_key = caption_key
        kind = f"webdataset 2 {'json' if caption_key else 'text'}"
        indices = []
        for path in tqdm(paths, desc="index", unit="shard", leave=False, disable=True if len(paths) < 10 else None):
            try:
                arrays = cached_index(path, kind, lambda path: index_shard(path, json_first=caption_key is not None))
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from error
            indices.append(arrays["pairs"])
            named = json.loads(arrays["skipped"].tobytes())
            for name, reason in named:
                self.skipped.add(f"{path}:{name}" if name else str(path), reason)
            self.skipped.count += int(arrays["not_named"])
        self._index = np.concatenate(indices)
        self._stops = np.cumsum([len(index) for index in indices])

    def __len__(self) -> int:
        return len(self._index)

    def label(self, i: int) -> str:
        """Return file and name of pair i's picture."""
        return f"{self._path(i)}:{_member_name(self._path(i), int(self._index[i]['picture']))}"

    def picture(self, i: int) -> bytes:
        """Read the encoded picture."""
        pair = self._index[i]
        return read_part(self._path(i), int(pair["picture"]), int(pair["picture_size"]))

    def caption(self, i: int) -> str:
        """Read the caption."""
        pair = self._index[i]
        data = read_part(self._path(i), int(pair["caption"]), int(pair["caption_size"]))
        return caption_of_json(data, self._caption_key) if pair["is_json"] else caption_of_text(data)

    def _path(self, i: int) -> Path:
        return self._paths[int(np.searchsorted(self._stops, i, side="right"))]


def expand_braces(pattern: str) -> list[str]:
    """Expand `{000..127}` and `{a,b}` as a shell does; other braces stay."""
    match = _BRACES.search(pattern)
    if match is None or not (parts := _alternatives(match.group(1))):
        return [pattern]
    before, after = pattern[: match.start()], expand_braces(pattern[match.end() :])
    return [f"{before}{part}{tail}" for part, tail in itertools.product(parts, after)]


def _alternatives(inside: str) -> list[str]:
    if span := _RANGE.fullmatch(inside):
        first, last = span.groups()
        if int(last) - int(first) >= _MOST_SHARDS:
            raise UserError(f"{{{inside}}} stands for more than {_MOST_SHARDS:,} files; name fewer shards at once")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    return inside.split(",") if "," in inside else []


def index_shard(path: Path, json_first: bool = False) -> Arrays:
    """Index the headers of a tar file.

    Of a file that was cut off, the samples that are whole are there.

    Returns:
        `pairs`: where pictures and captions lie, in the order of the file. `skipped`: JSON of [name, reason] for
        samples that are left out, as bytes; `not_named`: how many more there are.

    Raises:
        UserError: it is not an uncompressed tar file.
    """
    samples, cut = _samples(path, json_first)
    pairs: list[tuple[int, int, int, int, bool]] = []
    lone: tuple[list[int], list[int]] = ([], [])
    for sample in samples:
        best = [min(members.items()) for members in sample if members]  # of the least rank
        if len(best) == 2:
            (_, picture), (rank, caption) = best
            pairs.append((picture.offset, picture.size, caption.offset, caption.size, rank in (_JSON, _JSON_FIRST)))
        elif best[0][1].is_exact:
            lone[not sample[0]].append(best[0][1].offset)
    reasons = ("no caption beside it", "no picture beside it")
    named = [[_member_name(path, offset), why] for left, why in zip(lone, reasons, strict=True) for offset in sorted(left)[:_NAMED]]
    if cut:
        named.insert(0, ["", cut])
    total = len(lone[0]) + len(lone[1]) + bool(cut)
    skipped = np.frombuffer(json.dumps(named).encode(), np.uint8)
    return {"pairs": np.array(sorted(pairs), _PAIR), "skipped": skipped, "not_named": np.array(total - len(named))}


def _samples(path: Path, json_first: bool) -> tuple[Iterator[Sample], str]:
    """Find the samples in a tar file, and where it is cut off if it is."""
    samples = _Samples()
    size = path.stat().st_size
    cut = ""
    try:
        with tarfile.open(path, "r:") as tar:
            try:
                for member in _headers(tar):
                    end = member.offset_data + member.size
                    if member.size < 0:  # which would lead back, and round and round
                        cut = f"the size of {member.name} is negative; the samples before it are used"
                        break
                    if end > size:
                        cut = f"the file ends inside {member.name}"
                    elif member.isreg() and not member.issparse() and member.size < 2**32:
                        samples.add(member, json_first)
            except (tarfile.TarError, ValueError, KeyError, OverflowError, RecursionError):  # the file ends, or a damaged header lies
                pass
            if not cut and not _ends_well(path, tar.offset):
                cut = f"the file is cut off or damaged at byte {min(tar.offset, size)}; the samples before it are used"
    except (tarfile.TarError, RecursionError) as error:  # of long names that lead to long names
        raise UserError(f"{path}: not an uncompressed tar file ({error}); unpack .gz and .zst first") from error
    return itertools.chain.from_iterable(samples.of_key.values()), cut


def _headers(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header


class _Samples:
    """Gathers members into samples. Those of the same key, which some writers make, are all kept.

    A new sample begins with each name that comes again, and with a picture that follows on other samples when there is one with a
    caption already. What stands side by side is one sample.
    """

    def __init__(self) -> None:
        self.of_key: dict[str, list[Sample]] = {}
        self._current: dict[str, list[int]] = {}  # key -> which sample takes its next picture, and which its next caption
        self._last = ""

    def add(self, member: tarfile.TarInfo, json_first: bool) -> None:
        """Add a picture or caption; other files are left out.

        As in WebDataset, the stem ends at the first dot of the name. A name that gives no known ending that way is cut at its
        last dot ("photo.v2.jpg"), and is not missed when it has no partner: such are masks ("0001.mask.png") and the like.
        """
        folder, _, base = member.name.rpartition("/")
        if base.startswith((".", "__")):
            return
        for is_exact, (stem, _, ending) in ((True, base.partition(".")), (False, base.rpartition("."))):
            rank = _rank(ending.lower(), json_first)
            if rank is not None:
                self._place(f"{folder}/{stem}", rank)[rank] = Member(member.offset_data, member.size, is_exact)
                return

    def _place(self, key: str, rank: int) -> dict[int, Member]:
        """Choose the sample that a member belongs to, and return its pictures or captions."""
        samples, current = self.of_key.setdefault(key, [({}, {})]), self._current.setdefault(key, [0, 0])
        own, other = (0, 1) if rank < _JSON_FIRST else (1, 0)
        beside = self._last == key
        complete = current[0] == current[1] and all(samples[current[0]])
        if rank in samples[current[own]][own] or own == 0 and complete and not beside:
            current[own] += 1
        if beside and current[own] < current[other]:  # one before lacked its partner
            current[own] = current[other]
        samples += [({}, {}) for _ in range(len(samples), current[own] + 1)]
        self._last = key
        return samples[current[own]][own]


def _rank(ending: str, json_first: bool) -> int | None:
    if ending in PICTURE_ENDINGS:
        return PICTURE_ENDINGS.index(ending)
    if ending in TEXT_ENDINGS:
        return _FIRST_CAPTION + TEXT_ENDINGS.index(ending)
    if ending == "json":
        return _JSON_FIRST if json_first else _JSON
    return None


def _ends_well(path: Path, offset: int) -> bool:
    """Test whether a block of zeros, the end mark, stands at `offset`."""
    with path.open("rb") as file:
        return os.pread(file.fileno(), _BLOCK, offset) == bytes(_BLOCK)


def _member_name(path: Path, offset: int) -> str:
    """Read the name in the header before a member's data; a long one may be shortened."""
    try:
        return tarfile.TarInfo.frombuf(read_part(path, offset - _BLOCK, _BLOCK), "utf8", "surrogateescape").name
    except (tarfile.TarError, BadPairError):
        return f"byte {offset}"
