"""Encoded pictures (JPEG, PNG, WebP, SVG, ...) as squares of pixels: orientation, transparency, depth, aspect."""

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from worldmodel.datasets.pictures.formats import eight_bits, open_picture
from worldmodel.datasets.pictures.skipped_pairs import BadPairError
from worldmodel.datasets.pictures.svg import svg_to_png
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

ImageFit = Literal["pad", "crop", "stretch"]
"""How a picture becomes square: all of it with margins, its center, or out of shape."""
Margin = Literal["white", "edge"]
"""Color of the margins: white, or the mean color of the picture's rim."""

_SVG = re.compile(rb"^(?:\xef\xbb\xbf)?\s*<(?:svg|\?xml|!DOCTYPE svg|!--)", re.IGNORECASE)
_LONGEST_SVG = 16
"""Greatest ratio of an SVG's sides; longer ones are strips with nothing to see."""
_BLANK = 2.0
"""An SVG whose pixels have a smaller standard deviation shows nothing."""
_ORIENTATION = 0x0112


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


def is_svg(data: bytes) -> bool:
    """Test whether an encoded picture is a drawing in SVG."""
    return _SVG.match(data[:256]) is not None


def decode_picture(data: bytes, transform: ImageTransform) -> np.ndarray:
    """Decode a picture, upright, on white where it is transparent; of an animation the first frame.

    Args:
        data: a file of one of `formats.FORMATS`, or an SVG.
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
        raise BadPairError(f"the picture cannot be decoded: {_first_line(error)}") from error


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


def _draw(svg: str, size: int) -> "Image.Image":
    """Draw the SVG with its longer side at `size` pixels."""
    from PIL import Image

    return Image.open(io.BytesIO(svg_to_png(svg, size))).convert("RGB")


def _decode_raster(data: bytes, transform: ImageTransform) -> np.ndarray:
    from PIL import Image

    with open_picture(io.BytesIO(data)) as image:
        width, height = image.size
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            raise BadPairError(f"the picture has {width} x {height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS")
        turn = _upright(image)
        # JPEG decodes at a half, a quarter or an eighth for a fraction of the time; twice the wanted size keeps it sharp.
        width, height = _inner_size(image.size, transform)
        image.draft(None, (2 * width, 2 * height))
        image.load()
        opaque = _opaque(image)
    return _squared(opaque, transform, turn)


def _upright(image: "Image.Image") -> "Image.Transpose | None":
    """Return how to turn a picture as its EXIF orientation says."""
    from PIL import Image

    method = Image.Transpose
    turns = {
        2: method.FLIP_LEFT_RIGHT,
        3: method.ROTATE_180,
        4: method.FLIP_TOP_BOTTOM,
        5: method.TRANSPOSE,
        6: method.ROTATE_270,
        7: method.TRANSVERSE,
        8: method.ROTATE_90,
    }
    try:
        return turns.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a picture with broken EXIF is still a picture
        return None


def _opaque(image: "Image.Image") -> "Image.Image":
    """Convert the picture to RGB, on white where it is transparent."""
    from PIL import Image

    try:
        image = eight_bits(image)
    except ValueError as error:
        raise BadPairError(str(error)) from error
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _inner_size(size: tuple[int, int], transform: ImageTransform) -> tuple[int, int]:
    """Compute width and height of the scaled picture inside the square (pad) or around it (crop)."""
    width, height = size
    if transform.fit == "stretch":
        return transform.size, transform.size
    scale = transform.size / (max(size) if transform.fit == "pad" else min(size))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _squared(image: "Image.Image", transform: ImageTransform, turn: "Image.Transpose | None" = None) -> np.ndarray:
    """Convert an RGB picture to uint8 (size, size, 3), turned at the end, when it is small."""
    from PIL import Image

    box = None
    if transform.fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
    target = _inner_size(image.size, transform) if transform.fit == "pad" else (transform.size, transform.size)
    if image.size != target or box is not None:
        image = image.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)
    if turn is not None:
        image = image.transpose(turn)
    pixels = np.array(image)
    if pixels.shape[:2] == (transform.size, transform.size):
        return pixels
    ground = np.full((transform.size, transform.size, 3), 255, np.uint8)
    if transform.margin == "edge":
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        ground[:] = rim.mean(axis=0).round().astype(np.uint8)
    height, width = pixels.shape[:2]
    top, left = (transform.size - height) // 2, (transform.size - width) // 2
    ground[top : top + height, left : left + width] = pixels
    return ground


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
