"""Folders of pictures: captions in `metadata.jsonl` (Hugging Face's imagefolder), in text files next to them, or in their names."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from worldmodel.datasets.pictures.captions import caption_of_name, caption_of_record, caption_of_text, record_of_json
from worldmodel.datasets.pictures.shards import PICTURE_ENDINGS
from worldmodel.datasets.pictures.skipped_pairs import BadPairError, SkippedPairs, read_part
from worldmodel.errors import UserError

METADATA = "metadata.jsonl"
TEXT_SUFFIXES = (".txt", ".caption")


class PackedStrings:
    """Many short strings in one block of memory: their bytes and 8 more each."""

    def __init__(self, strings: Iterable[str]) -> None:
        content, stops = bytearray(), [0]
        for string in strings:
            content += os.fsencode(string)
            stops.append(len(content))
        self._content, self._stops = bytes(content), np.array(stops, np.int64)

    def __len__(self) -> int:
        return len(self._stops) - 1

    def __getitem__(self, i: int) -> str:
        """Return string i."""
        i = range(len(self))[i]
        return os.fsdecode(self._content[self._stops[i] : self._stops[i + 1]])


class PictureFiles:
    """Picture files under a folder, and a caption for each: given, in a text file of the same stem, or in its name.

    Captions are given one each, or read from the text files, of which `first_line` may be all that counts. With `use_names` the name
    of a picture without a text file is its caption.
    """

    def __init__(
        self,
        root: Path,
        files: Iterable[str],
        captions: Iterable[str] | None = None,
        use_names: bool = False,
        first_line: bool = False,
        name: str = "",
        licence: str = "unknown",
    ) -> None:
        self.name, self.licence, self.skipped = name or root.name, licence, SkippedPairs()
        self._root, self._use_names, self._first_line = root, use_names, first_line
        self._files = PackedStrings(files)
        self._captions = PackedStrings(captions) if captions is not None else None

    def __len__(self) -> int:
        return len(self._files)

    def label(self, i: int) -> str:
        """Return the path of picture i."""
        return str(self._root / self._files[i])

    def picture(self, i: int) -> bytes:
        """Read the file."""
        return read_part(self._root / self._files[i])

    def caption(self, i: int) -> str:
        """Read the caption."""
        if self._captions is not None:
            return self._captions[i]
        path = self._root / self._files[i]
        text = next(filter(Path.exists, map(path.with_suffix, TEXT_SUFFIXES)), None)
        if text is None and self._use_names:
            return caption_of_name(path.stem)
        if text is None:
            raise BadPairError("no caption beside it")
        data = read_part(text)
        return caption_of_text(data.partition(b"\n")[0] if self._first_line else data)


class MetadataFolder:
    """The pictures that the `metadata.jsonl` files of a folder name; the index has 16 bytes a pair.

    Names in such a file are relative to where it lies; `caption_key` is the field that is the caption, by default the usual ones.
    """

    licence = "unknown"

    def __init__(self, root: Path, metadata: Sequence[Path], caption_key: str | None = None) -> None:
        self.name, self.skipped, self._root = root.name, SkippedPairs(), root
        self._metadata, self._caption_key = list(metadata), caption_key
        rows = ((which, start, size) for which, path in enumerate(metadata) for start, size in _lines(path))
        self._lines = np.fromiter(rows, np.dtype([("file", "<u4"), ("start", "<i8"), ("size", "<u4")]))

    def __len__(self) -> int:
        return len(self._lines)

    def label(self, i: int) -> str:
        """Return the path of picture i, or the place of its line when that cannot be read."""
        try:
            return str(self._picture_path(i))
        except BadPairError:
            line = self._lines[i]
            return f"{self._metadata[line['file']]}, byte {line['start']}"

    def picture(self, i: int) -> bytes:
        """Read the file."""
        return read_part(self._picture_path(i))

    def caption(self, i: int) -> str:
        """Read the caption."""
        return caption_of_record(self._record(i), self._caption_key)

    def _picture_path(self, i: int) -> Path:
        name = self._record(i).get("file_name")
        if not isinstance(name, str) or not name:
            raise BadPairError('its line has no "file_name"')
        path = Path(os.path.normpath(self._metadata[self._lines[i]["file"]].parent / name))  # links may lead anywhere, names not
        if not path.is_relative_to(os.path.normpath(self._root)):
            raise BadPairError(f"its file_name {name!r} leads out of the folder")
        return path

    def _record(self, i: int) -> dict:
        line = self._lines[i]
        return record_of_json(read_part(self._metadata[line["file"]], int(line["start"]), int(line["size"])))


def open_folder(root: Path, use_names: bool = False, caption_key: str | None = None) -> PictureFiles | MetadataFolder:
    """Open the pairs of a folder and the folders in it; UserError where there are no pictures, or none has a caption."""
    found = list(_walk(root))
    metadata = [root / folder / METADATA for folder, names in found if METADATA in names]
    if metadata:
        return MetadataFolder(root, metadata, caption_key)
    pictures = []
    for folder, names in found:
        texts = {_stem(name) for name in names if name.endswith(TEXT_SUFFIXES)}
        pictures += [(os.path.join(folder, name), _stem(name) in texts) for name in names if _is_picture(name)]
    if not pictures:
        raise UserError(f"{root} holds no pictures ({', '.join(PICTURE_ENDINGS)}) and no {METADATA}")
    captioned = [path for path, has_text in pictures if has_text or use_names]
    if not captioned:
        raise UserError(
            f"none of the {len(pictures):,} pictures in {root} has a caption: give each a text file of the same stem or the folder "
            f"a {METADATA}, or take the file names as captions"
        )
    files = PictureFiles(root, captioned, use_names=use_names)
    for path, has_text in pictures:
        if not (has_text or use_names):
            files.skipped.add(str(root / path), "no caption beside it")
    return files


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield folders relative to the root, each with the sorted names of its files; hidden ones are left out."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield os.path.relpath(folder, root), sorted(name for name in names if not name.startswith("."))


def _is_picture(name: str) -> bool:
    return name.rpartition(".")[2].lower() in PICTURE_ENDINGS


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """Find start and size of the lines of a file that are not empty."""
    try:
        with path.open("rb") as file:
            start = 0
            for line in file:
                if line.strip():
                    yield start, len(line)
                start += len(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
