"""Makes small encoded pictures, and the sets of pairs that hold them."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = [(200, 30, 30), (30, 160, 40), (40, 60, 200), (220, 180, 20), (150, 60, 170), (20, 170, 180)]


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as a file of some format."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def plain(i: int, kind: str = "PNG", size: int = 8) -> bytes:
    """A square of one colour, which says which picture it is."""
    return encoded(np.full((size, size, 3), COLOURS[i % len(COLOURS)], np.uint8), kind)


def number_of(image: np.ndarray) -> int:
    """Which picture `plain` made."""
    return int(np.argmin(np.abs(np.array(COLOURS) - image.reshape(-1, 3).mean(axis=0)).sum(axis=1)))


def write_tar(path: Path, members: Sequence[tuple[str, bytes]] | Mapping[str, bytes], **options: Any) -> Path:
    """A tar file of these members, in this order."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(count: int, kind: str = "PNG") -> list[tuple[str, bytes]]:
    """Members of a shard: picture i and its caption "picture i"."""
    ending = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}[kind]
    return [
        member for i in range(count) for member in ((f"{i:04}.{ending}", plain(i, kind)), (f"{i:04}.txt", f"picture {i}".encode()))
    ]


def write_folder(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    """A folder of these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def json_lines(records: Sequence[Any]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(record) + "\n" for record in records)
