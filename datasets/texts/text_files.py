"""Reads documents out of text files one after another, in little memory: .txt, .jsonl (each also .gz, .zst) and .parquet.

A line of .jsonl and a row of .parquet is a document. A plain text is one document, or, when it is long, several:
sections that end at a paragraph, so that a single text of any size can be streamed and split.
"""

import codecs
import glob
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from worldmodel.datasets.records import import_parquet
from worldmodel.errors import UserError

FORMATS = (".txt", ".jsonl", ".parquet")
KINDS = "a text corpus is a .txt, .jsonl (also .gz, .zst) or .parquet file, a folder or a pattern of such files"
SECTION = 1 << 16
"""Characters from which on a plain text is more than one document."""
MAX_RATIO = 300
"""Times that a compressed text may be larger than its file, beyond the first few megabytes."""
MAX_LINE = 1 << 26
"""Bytes of a line of .jsonl."""
_BLOCK = 1 << 16
_ZST_BLOCK = 1 << 10
"""A few bytes may stand for 128 KiB each, all of which come at once."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_BREAKS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"\s"))


def find_files(source: str) -> list[Path]:
    """List the text files that a path names: a file, a folder (searched to the bottom) or a pattern like "books/**/*.txt".

    Raises:
        UserError: there is none, or a file that is named is of another kind.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if text_format(path) is None:
            raise UserError(f"{source}: {KINDS}")
        return [path]
    if path.is_dir():
        found = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
        found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    elif glob.has_magic(source):
        found = [file for file in map(Path, glob.glob(str(path), recursive=True)) if file.is_file()]
    else:
        raise UserError(f"cannot read {source}: there is no such file, folder or package")
    real = {file.resolve(): file for file in sorted(found, reverse=True) if text_format(file) is not None}  # links count once
    if not real:
        raise UserError(f"{source} has no text files; {KINDS}")
    return sorted(real.values())


def text_format(path: Path) -> str | None:
    """Return the ending that says how to read a file (.txt, .jsonl or .parquet), or None."""
    compressed = path.suffix in (".gz", ".zst")
    suffix = path.with_suffix("").suffix if compressed else path.suffix
    return suffix if suffix in FORMATS and not (compressed and suffix == ".parquet") else None


def read_documents(path: Path, field: str, section: int | None, progress: Callable[[int], object]) -> Iterator[str]:
    """Read the documents of a file in their order.

    Args:
        path: the file.
        field: the field (.jsonl) or column (.parquet) with the text.
        section: characters from which on a plain text is more than one document; None keeps it whole.
        progress: called with how many more bytes of the file were read.

    Raises:
        UserError: the file cannot be read or is damaged, with the line or byte.
    """
    try:
        match text_format(path):
            case ".txt":
                yield from _sections(_decoded(path, progress), section)
            case ".jsonl":
                yield from _json_texts(path, field, progress)
            case _:
                yield from _parquet_texts(path, field, progress)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _blocks(path: Path, progress: Callable[[int], object]) -> Iterator[bytes]:
    """Read the content of a file, decompressed, in blocks."""
    with path.open("rb") as file:
        blocks = _counted(file, progress)
        match path.suffix:
            case ".gz":
                yield from _decompressed(path, blocks, lambda: zlib.decompressobj(wbits=31))
            case ".zst":
                small = (block[i : i + _ZST_BLOCK] for block in blocks for i in range(0, len(block), _ZST_BLOCK))
                yield from _decompressed(path, small, lambda: zstandard.ZstdDecompressor().decompressobj())
            case _:
                yield from blocks


def _counted(file: io.BufferedReader, progress: Callable[[int], object]) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        progress(len(block))
        yield block


def _decompressed(path: Path, blocks: Iterator[bytes], start: Callable[[], Any]) -> Iterator[bytes]:
    """Decompress members (frames) that follow one another, zeros between them skipped; an end inside of one is noticed."""
    member = None
    packed = unpacked = 0
    try:
        for block in blocks:
            packed += len(block)
            while block := block if member else block.lstrip(b"\0"):
                member = member or start()
                more = member.decompress(block)
                unpacked += len(more)
                if unpacked > max(MAX_RATIO * packed, MAX_RATIO * _BLOCK):
                    raise UserError(f"{path} unpacks to more than {MAX_RATIO} times its size, as no text does; unpack it first")
                yield from (more[i : i + _BLOCK] for i in range(0, len(more), _BLOCK))
                block = b""
                if member.eof:
                    block, member = member.unused_data, None
    except (zlib.error, zstandard.ZstdError) as error:
        raise UserError(f"{path} is damaged and cannot be decompressed ({error}); get it anew") from error
    if member is not None:
        raise UserError(f"{path} is cut off and cannot be decompressed to its end; get it anew")


def _decoded(path: Path, progress: Callable[[int], object]) -> Iterator[str]:
    """Read the content of a plain text, all line ends alike."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    fed = start = 0  # bytes; `start` is where the decoder's view begins: with the unfinished character of the last block
    try:
        for block in _blocks(path, progress):
            start = fed - len(decoder.getstate()[0])
            text = decoder.decode(block)
            yield newlines.decode(text if fed else text.removeprefix("\ufeff"))
            fed += len(block)
        start = fed - len(decoder.getstate()[0])
        yield newlines.decode(decoder.decode(b"", final=True), final=True)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {start + error.start}); convert it first") from error


def _sections(texts: Iterator[str], section: int | None) -> Iterator[str]:
    """Join a text's blocks and cut it into sections; where, does not depend on the blocks."""
    if section is None:
        yield "".join(texts)
        return
    text = ""
    for more in texts:
        text = (text + more).lstrip()
        while end := _section_end(text, section):
            yield text[:end]
            text = text[end:].lstrip()
    yield text


def _section_end(text: str, section: int) -> int:
    """Find the first paragraph end behind `section` characters; line end, blank or nothing if four sections have none; 0: read on."""
    limit = 4 * section
    for pattern in _BREAKS if len(text) >= limit else _BREAKS[:1]:
        if match := pattern.search(text, section, limit):
            return match.start()
    return limit if len(text) >= limit else 0


def _json_texts(path: Path, field: str, progress: Callable[[int], object]) -> Iterator[str]:
    start = 0
    for number, line in enumerate(_lines(path, _blocks(path, progress)), start=1):
        if line.strip():
            yield _json_text(f"{path} line {number}", start, line.removeprefix(codecs.BOM_UTF8), field)
        start += len(line) + 1


def _lines(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    length = 0
    for block in blocks:
        first, *others = block.split(b"\n")
        parts.append(first)
        length += len(first)
        if length > MAX_LINE:
            raise UserError(f"{path} has a line of more than {MAX_LINE >> 20} MiB; is it JSON lines, a document each?")
        for line in others:
            yield b"".join(parts)
            parts, length = [line], len(line)
    yield b"".join(parts)


def _json_text(place: str, start: int, line: bytes, field: str) -> str:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 text (byte {start + error.start} of the file); convert it first") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{place} is not JSON: {getattr(error, 'msg', 'nested too deeply')}") from error
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UserError(f'{place} has no "{field}" string; each line must be like {{"{field}": "..."}}, or name another field')
    if _SURROGATE.search(text):
        raise UserError(f"{place} has half a character (a lone surrogate escape), which is no text; write the line anew")
    return text


def _parquet_texts(path: Path, field: str, progress: Callable[[int], object]) -> Iterator[str]:
    pyarrow, parquet = import_parquet(path)
    try:
        with parquet.ParquetFile(path) as file:
            kind = file.schema_arrow.field(field).type if field in file.schema_arrow.names else None
            if kind not in (pyarrow.string(), pyarrow.large_string()):
                raise UserError(f"{path} has no column {field!r} of texts; its columns are {', '.join(file.schema_arrow.names)}")
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=[field]):
                    yield from (text for text in batch.column(0).to_pylist() if text)
                progress(file.metadata.row_group(group).total_byte_size)
    except (pyarrow.ArrowException, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path} is damaged and cannot be read ({error}); get it anew") from error
