"""Picture files: which formats are opened, by what is in them, and 16 bits as 8.

Pillow knows many formats more, some of which start other programs (Ghostscript for EPS), whatever a file is called.
"""

from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Names that Pillow gives the formats that are opened."""
SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of gray pictures whose own conversion clips at 255."""


def open_picture(file: Path | IO[bytes], formats: tuple[str, ...] = FORMATS) -> "Image.Image":
    """Open a picture of one of these formats, not yet decoded.

    Raises:
        OSError: it is of another format, or damaged.
    """
    from PIL import Image

    return Image.open(file, formats=formats)


def upright(image: "Image.Image") -> "Image.Image":
    """Turn the picture as its EXIF orientation says; return it as it is where it has none that can be read."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a picture with broken EXIF is still a picture
        return image


def eight_bits(image: "Image.Image") -> "Image.Image":
    """Convert the picture to 8 bits a channel: 16-bit gray by its brightness, others as they are.

    Raises:
        ValueError: its pixels are floating-point numbers.
    """
    from PIL import Image

    if image.mode == "F":
        raise ValueError("the picture has floating-point pixels, whose range is not known; store 8 or 16 bits")
    if image.mode not in SIXTEEN_BITS:
        return image
    grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))
