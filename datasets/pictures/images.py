"""Encoded pictures (JPEG, PNG, WebP, SVG, ...) as squares of pixels: orientation, transparency, depth, aspect."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from worldmodel.datasets.pictures.skipped_pairs import BadPairError
from worldmodel.datasets.pictures.svg import svg_to_png
from worldmodel.errors import UserError, first_line

ImageFit = Literal["pad", "crop", "stretch"]
"""How a picture becomes square: all of it with margins, its center, or out of shape."""
Margin = Literal["white", "edge"]
"""Color of the margins: white, or the mean color of the picture's rim."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What Pillow calls the formats that are opened. It knows many more, some of which start other programs, whatever a file is called."""
SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of gray pictures whose own conversion clips at 255."""

_SVG = re.compile(rb"^(?:\xef\xbb\xbf)?\s*<(?:svg|\?xml|!DOCTYPE svg|!--)", re.IGNORECASE)
_LONGEST_SVG = 16
"""Greatest ratio of an SVG's sides; longer ones are strips with nothing to see."""
_BLANK = 2.0
"""An SVG whose pixels have a smaller standard deviation shows nothing."""


@dataclass(frozen=True)
class ImageTransform:
    """What pictures are made into."""

    size: int = 64
    """Height and width in pixels."""
    fit: ImageFit = "pad"
    margin: Margin = "white"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"image size {self.size} must be at least 1")
        if self.fit not in get_args(ImageFit):
            raise UserError(f"fit {self.fit!r} is not one of {', '.join(get_args(ImageFit))}")
        if self.margin not in get_args(Margin):
            raise UserError(f"margin {self.margin!r} is not one of {', '.join(get_args(Margin))}")


def open_picture(file: Path | IO[bytes], formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open a picture of one of these formats, not yet decoded; OSError where it is of another one, or damaged."""
    return Image.open(file, formats=formats)


def upright(image: Image.Image) -> Image.Image:
    """Turn the picture as its EXIF orientation says; return it as it is where it has none that can be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a picture with broken EXIF is still a picture
        return image


def eight_bits(image: Image.Image) -> Image.Image:
    """Convert the picture to 8 bits a channel, 16-bit gray by its brightness; ValueError where pixels are floating-point numbers."""
    if image.mode == "F":
        raise ValueError("the picture has floating-point pixels, whose range is not known; store 8 or 16 bits")
    if image.mode not in SIXTEEN_BITS:
        return image
    gray = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    return Image.fromarray(((gray + 128) // 257).astype(np.uint8))


def is_svg(data: bytes) -> bool:
    """Test whether an encoded picture is a drawing in SVG."""
    return _SVG.match(data[:256]) is not None


def decode_picture(data: bytes, transform: ImageTransform) -> np.ndarray:
    """Decode a picture, upright, on white where it is transparent; of an animation the first frame.

    Args:
        data: a file of one of `FORMATS`, or an SVG.
        transform: size and shape wanted.

    Returns:
        uint8 (size, size, 3).

    Raises:
        BadPairError: it is damaged, too large (`PIL.Image.MAX_IMAGE_PIXELS`), or an SVG that shows nothing.
    """
    if is_svg(data):
        pixels = render_svg(data.decode("utf8", errors="replace"), transform)
        if pixels.std() < _BLANK:
            raise BadPairError("the drawing is blank")
        return pixels
    try:
        return _decode_raster(data, transform)
    except (BadPairError, MemoryError):
        raise
    except Exception as error:  # on damaged files Pillow's decoders raise nearly anything
        raise BadPairError(f"the picture cannot be decoded: {first_line(error)}") from error


def render_svg(svg: str, transform: ImageTransform) -> np.ndarray:
    """Draw an SVG on white: uint8 (size, size, 3).

    Raises:
        BadPairError: it is not a valid SVG, longer than 16 times its width, or takes too long.
        UserError: the renderer is not installed.
    """
    image = _draw(svg, transform.size)
    long, short = max(image.size), min(image.size)
    if long > _LONGEST_SVG * short:
        raise BadPairError(f"the drawing's sides are as {image.size[0]} to {image.size[1]}")
    if transform.fit != "pad" and short < transform.size:
        image = _draw(svg, -(-transform.size * long // short))  # drawn again so that its short side is sharp
    return _squared(image, transform)


def _draw(svg: str, size: int) -> Image.Image:
    """Draw the SVG with its longer side at `size` pixels."""
    return Image.open(io.BytesIO(svg_to_png(svg, size))).convert("RGB")


def _decode_raster(data: bytes, transform: ImageTransform) -> np.ndarray:
    with open_picture(io.BytesIO(data)) as image:
        width, height = image.size
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            raise BadPairError(f"the picture has {width} x {height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS")
        # JPEG decodes at a half, a quarter or an eighth for a fraction of the time; twice the wanted size keeps it sharp.
        width, height = _inner_size(image.size, transform)
        image.draft(None, (2 * width, 2 * height))
        image.load()
        return _squared(_opaque(eight_bits(upright(image))), transform)


def _opaque(image: Image.Image) -> Image.Image:
    """Convert the picture to RGB, on white where it is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _inner_size(size: tuple[int, int], transform: ImageTransform) -> tuple[int, int]:
    """Compute width and height of the scaled picture inside the square (pad) or around it (crop)."""
    if transform.fit == "stretch":
        return transform.size, transform.size
    scale = transform.size / (max(size) if transform.fit == "pad" else min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _squared(image: Image.Image, transform: ImageTransform) -> np.ndarray:
    """Convert an RGB picture to uint8 (size, size, 3)."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side) if transform.fit == "crop" else None
    width, height = _inner_size(image.size, transform) if transform.fit == "pad" else (transform.size, transform.size)
    pixels = np.array(image.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=2.0))
    ground = np.full((transform.size, transform.size, 3), 255, np.uint8)
    if transform.margin == "edge":
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        ground[:] = rim.mean(axis=0).round().astype(np.uint8)
    row, column = (transform.size - height) // 2, (transform.size - width) // 2
    ground[row : row + height, column : column + width] = pixels
    return ground
