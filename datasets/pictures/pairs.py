"""Pictures with captions from any source behind one type: packages, folders, WebDataset shards, Parquet."""

import glob
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from worldmodel.datasets.pictures.caches import LRUCache
from worldmodel.datasets.pictures.drawings import IconSets, open_openmoji, open_stamps
from worldmodel.datasets.pictures.images import ImageFit, ImageTransform, Margin, decode_picture, is_svg
from worldmodel.datasets.pictures.picture_files import open_folder
from worldmodel.datasets.pictures.picture_tables import PictureTables
from worldmodel.datasets.pictures.shards import TarShards, expand_braces
from worldmodel.datasets.pictures.skipped_pairs import BadPairError, SkippedPairs
from worldmodel.errors import UserError

logger = logging.getLogger(__name__)

PACKAGED = ("openmoji", "iconify", "stamps")
"""Names of sources that are packages."""
KEPT_BYTES = 256 * 2**20
"""Memory for pictures that are kept; see `Pairs`."""
TRIES = 1000
"""After so many unusable pairs in a row a set is taken for useless."""


class PairReader(Protocol):
    """Where pairs come from: random access to encoded pictures and captions; can be pickled."""

    name: str
    licence: str
    skipped: SkippedPairs

    def __len__(self) -> int: ...

    def label(self, i: int) -> str:
        """Return the name of pair i for messages."""
        ...

    def picture(self, i: int) -> bytes:
        """Read the encoded picture; raises BadPairError."""
        ...

    def caption(self, i: int) -> str:
        """Read the caption; raises BadPairError."""
        ...


class Pairs:
    """Pictures with a caption each, read when they are asked for.

    A pair that cannot be used (a damaged picture, an empty caption) is counted, and its place gives the next good pair; so
    what a place gives depends on the files alone. Drawings, which are slow to make, and the pictures of sets that fit are
    kept in memory, the last used ones up to `kept_bytes`.

    Args:
        reader: where the pairs come from.
        transform: size and shape of the pictures.
        kept_bytes: memory for pictures; 0 keeps none.

    Raises:
        UserError: there are no pairs.
    """

    def __init__(self, reader: PairReader, transform: ImageTransform, kept_bytes: int = KEPT_BYTES) -> None:
        if len(reader) == 0:
            raise UserError(f"{reader.name} holds no picture with a caption ({reader.skipped})")
        if reader.skipped.count:
            logger.warning("%s: of %s pairs, %s", reader.name, f"{len(reader) + reader.skipped.count:,}", reader.skipped)
        self.transform = transform
        self._reader = reader
        self._places = np.arange(len(reader))
        self._is_bad = np.zeros(len(reader), bool)
        self._recent: LRUCache[np.ndarray] = LRUCache(kept_bytes // (3 * transform.size**2))

    def __len__(self) -> int:
        return len(self._places)

    @property
    def name(self) -> str:
        """Name of the set."""
        return self._reader.name

    @property
    def licence(self) -> str:
        """License of the set; "unknown" for users' own files."""
        return self._reader.licence

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.transform.size

    @property
    def skipped(self) -> dict[str, str]:
        """Name -> reason of pairs found unusable so far by this process, the first 1000; after `check`, of all."""
        return dict(self._reader.skipped.names)

    @property
    def captions(self) -> "Captions":
        """The captions alone, read one by one without looking at the pictures.

        Where a picture is damaged this is still its own caption: for both of a pair ask `pair`.
        """
        return Captions(self)

    def pair(self, i: int) -> tuple[np.ndarray, str]:
        """Read picture i, uint8 (size, size, 3), and its caption.

        Raises:
            UserError: no pair of the set can be used, or none of 1000 in a row.
        """
        i = range(len(self))[i]
        for place in self._from(i):
            try:
                caption = self._reader.caption(place)
                return self._picture(place), caption
            except BadPairError as error:
                self._skip(place, error)
        raise self._useless(i)

    def image(self, i: int) -> np.ndarray:
        """Read picture i: uint8 (size, size, 3)."""
        return self.pair(i)[0]

    def caption(self, i: int) -> str:
        """Read the caption of `image(i)`."""
        return self.pair(i)[1]

    def split(self, held_out: float = 0.1, seed: int = 0) -> tuple["Pairs", "Pairs"]:
        """Split the pairs into training and evaluation, disjoint; the same seed keeps the same pairs."""
        order = np.random.default_rng(seed).permutation(len(self))
        held = min(max(1, round(held_out * len(self))), len(self) - 1)
        return self._subset(order[held:]), self._subset(order[:held])

    def check(self) -> dict[str, str]:
        """Read every pair once, and return `skipped`."""
        for place in tqdm(self._places, desc=f"check {self.name}", unit="pair", disable=None):
            try:
                self._reader.caption(place)
                self._picture(place)
            except BadPairError as error:
                self._skip(place, error)
        return self.skipped

    def _subset(self, indices: np.ndarray) -> "Pairs":
        part = Pairs.__new__(Pairs)
        part.__dict__.update(self.__dict__)  # shares the reader, the pictures kept and what is known to be bad
        part._places = self._places[np.sort(indices)]
        return part

    def _from(self, i: int) -> Iterator[int]:
        """Yield place i of this part and those after it, but for those known to be bad."""
        for step in range(min(len(self), TRIES)):
            place = int(self._places[(i + step) % len(self)])
            if not self._is_bad[place]:
                yield place

    def _picture(self, place: int) -> np.ndarray:
        kept = self._recent.get(place)
        if kept is not None:
            return kept.copy()
        data = self._reader.picture(place)
        pixels = decode_picture(data, self.transform)
        if is_svg(data) or len(self._reader) <= self._recent.capacity:
            self._recent.put(place, pixels.copy())
        return pixels

    def _skip(self, place: int, error: BadPairError) -> None:
        if not self._is_bad[place]:
            self._is_bad[place] = True
            self._reader.skipped.warn(self._reader.label(place), str(error))

    def _useless(self, i: int) -> UserError:
        first = int(self._places[i])
        try:
            self._reader.caption(first)
            decode_picture(self._reader.picture(first), self.transform)
            reason = "it can be read now"
        except BadPairError as error:
            reason = str(error)
        which = f"none of the {len(self):,} pairs" if len(self) <= TRIES else f"none of {TRIES:,} pairs in a row"
        return UserError(f"{self.name}: {which} can be used; {self._reader.label(first)}: {reason}")


class Captions(Sequence[str]):
    """The captions of pairs, read when they are asked for; where one is missing, the next that is there."""

    def __init__(self, pairs: Pairs) -> None:
        self._reader, self._places = pairs._reader, pairs._places
        self._name = pairs.name

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # as a Sequence: an index or a slice
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        i = range(len(self))[i]
        for step in range(min(len(self), TRIES)):
            try:
                return self._reader.caption(int(self._places[(i + step) % len(self)]))
            except BadPairError:
                continue
        raise UserError(f"{self._name}: none of {min(len(self), TRIES):,} captions in a row can be read")


def open_pairs(
    source: str | Path,
    size: int = 64,
    fit: ImageFit = "pad",
    margin: Margin = "white",
    names_as_captions: bool = False,
    caption_key: str | None = None,
    kept_bytes: int = KEPT_BYTES,
) -> Pairs:
    """Open pictures with captions.

    Args:
        source: `openmoji`, `iconify` (its color sets; `iconify:noto,twemoji` for some), `stamps`; a folder of pictures with a
            `metadata.jsonl` or a text file next to each; WebDataset shards (`.tar`) or `.parquet` files: one, a folder of
            them, or a pattern with `*`, `?`, `[...]`, `{000..127}`, `{a,b}`.
        size: height and width in pixels.
        fit: `pad` shows all of a picture, `crop` its center, `stretch` ignores its aspect.
        margin: color of what `pad` adds, white or that of the picture's rim.
        names_as_captions: in a folder, the name of a file without a text is its caption.
        caption_key: column or JSON field that holds the caption; by default the usual names.
        kept_bytes: memory for decoded pictures, in each process.

    Raises:
        UserError: nothing is found, it cannot be read, or a package is missing.
    """
    return Pairs(_open(str(source), names_as_captions, caption_key), ImageTransform(size, fit, margin), kept_bytes)


def _open(source: str, names_as_captions: bool, caption_key: str | None) -> PairReader:
    name, _, rest = source.partition(":")
    match name:
        case "openmoji":
            return open_openmoji()
        case "stamps":
            return open_stamps()
        case "iconify":
            return IconSets([part.strip() for part in rest.split(",") if part.strip()])
    paths = _paths(source)
    if len(paths) == 1 and paths[0].is_dir():
        files = sorted(paths[0].glob("*.tar")) or sorted(paths[0].glob("*.parquet"))
        if not files:
            return open_folder(paths[0], names_as_captions, caption_key)
        paths = files
    endings = {path.suffix for path in paths}
    if endings == {".tar"}:
        return TarShards(paths, caption_key)
    if endings == {".parquet"}:
        return PictureTables(paths, caption_key)
    raise UserError(
        f"{source}: pictures with captions are {', '.join(PACKAGED)}, a folder, .tar shards (not compressed) or .parquet files, "
        f"not {', '.join(sorted(endings - {'.tar', '.parquet'})) or 'several kinds'}"
    )


def _paths(source: str) -> list[Path]:
    """List the files and folders that a pattern names, sorted within each brace; UserError where one is not there."""
    paths: list[Path] = []
    for pattern in expand_braces(str(Path(source).expanduser())):
        if Path(pattern).exists():
            paths.append(Path(pattern))
        elif found := sorted(glob.glob(pattern, recursive=True)):
            paths += map(Path, found)
        else:
            raise UserError(f"{pattern}: there is no such file or folder, nor a package of pictures ({', '.join(PACKAGED)})")
    return paths
