import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.datasets.picture_sets import encoded, plain
from worldmodel.datasets.pictures.images import ImageTransform, decode_picture
from worldmodel.datasets.pictures.skipped_pairs import BadPairError
from worldmodel.errors import UserError

RED, WHITE = (255, 0, 0), (255, 255, 255)


def svg(inside: str, box: str = "0 0 2 2") -> bytes:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{inside}</svg>'.encode()


def two_halves(width: int, height: int) -> np.ndarray:
    """Left red, right blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return pixels


def close(pixels: np.ndarray, colour: Any, tolerance: int = 4) -> bool:
    return bool((np.abs(pixels.astype(int) - colour) <= tolerance).all())


def test_wide_picture_is_padded_in_the_middle() -> None:
    image = decode_picture(encoded(np.full((10, 40, 3), 90, np.uint8)), ImageTransform(16))
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert (image[:6] == 255).all() and (image[10:] == 255).all() and (image[6:10] == 90).all()


def test_tall_picture_is_padded_with_the_colour_of_its_rim() -> None:
    image = decode_picture(encoded(np.full((40, 10, 3), 90, np.uint8)), ImageTransform(16, margin="edge"))
    assert (image == 90).all()


def test_crop_takes_the_centre_and_stretch_takes_all() -> None:
    pixels = np.full((20, 60, 3), 10, np.uint8)
    pixels[:, 20:40] = 250
    assert close(decode_picture(encoded(pixels), ImageTransform(10, "crop"))[:, 1:-1], 250)
    stretched = decode_picture(encoded(pixels), ImageTransform(30, "stretch"))
    assert close(stretched[:, 2:8], 10) and close(stretched[:, 12:18], 250) and close(stretched[:, 22:28], 10)


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from(["pad", "crop", "stretch"]),
    st.sampled_from(["PNG", "JPEG"]),
)
@settings(deadline=None, max_examples=60)
def test_any_shape_becomes_a_square_of_the_same_colour(width: int, height: int, size: int, fit: Any, kind: str) -> None:
    pixels = np.full((height, width, 3), (200, 40, 90), np.uint8)
    image = decode_picture(encoded(pixels, kind), ImageTransform(size, fit, "edge"))
    assert image.shape == (size, size, 3) and close(image, (200, 40, 90), 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = Image.fromarray(two_halves(48, 24))
    upright.putpixel((0, 0), (0, 255, 0))
    t = Image.Transpose
    turns = [t.FLIP_LEFT_RIGHT, t.ROTATE_180, t.FLIP_TOP_BOTTOM, t.TRANSPOSE, t.ROTATE_90, t.TRANSVERSE, t.ROTATE_270]
    stored = upright if orientation == 1 else upright.transpose(turns[orientation - 2])
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = decode_picture(encoded(upright), ImageTransform(48))
    np.testing.assert_array_equal(decode_picture(encoded(stored, exif=exif), ImageTransform(48)), expected)


def test_transparency_becomes_white_without_a_dark_fringe() -> None:
    layer = np.zeros((32, 32, 4), np.uint8)  # transparent black
    layer[8:24, 8:24] = (255, 0, 0, 255)
    image = decode_picture(encoded(layer), ImageTransform(8))
    assert close(image[0], WHITE) and close(image[3:5, 3:5], RED)
    assert (image[..., 0] >= 250).all()  # red on white has no dark pixel


@pytest.mark.parametrize("mode", ["LA", "P", "L", "RGB"])
def test_transparency_of_other_modes(mode: str) -> None:
    upper: Any = {"LA": (90, 0), "P": (0, 0, 0, 0), "L": 90, "RGB": (0, 255, 0)}[mode]  # is transparent
    image = Image.new("RGBA" if mode == "P" else mode, (8, 8), {"LA": (0, 255), "P": (0, 0, 0, 255)}.get(mode, 0))
    image.paste(upper, (0, 0, 8, 4))
    options = {"transparency": upper} if mode in ("L", "RGB") else {}
    pixels = decode_picture(encoded(image.quantize(4) if mode == "P" else image, **options), ImageTransform(8))
    assert close(pixels[:4], WHITE) and close(pixels[4:], (0, 0, 0))


def test_two_colours_are_black_and_white() -> None:
    image = Image.new("1", (8, 8), 0)
    image.paste(1, (0, 0, 8, 4))
    pixels = decode_picture(encoded(image), ImageTransform(8))
    assert (pixels[:4] == 255).all() and (pixels[4:] == 0).all()


def test_sixteen_bits_keep_their_range() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    image = decode_picture(encoded(ramp), ImageTransform(8))
    np.testing.assert_allclose(image[..., 0].ravel(), np.linspace(0, 255, 64), atol=1)
    assert (image[..., 0] == image[..., 2]).all()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(kind: str) -> None:
    for colour in (RED, WHITE, (0, 0, 255)):
        cmyk = Image.new("RGB", (16, 16), colour).convert("CMYK")
        assert close(decode_picture(encoded(cmyk, kind), ImageTransform(8)), colour, 8)


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert close(decode_picture(data, ImageTransform(8)), RED)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_downscaling_averages(kind: str) -> None:
    board = ((np.indices((512, 512)).sum(axis=0) % 2) * 255).astype(np.uint8)
    pixels = np.stack([board] * 3, axis=-1)
    image = decode_picture(encoded(pixels, kind, quality=95), ImageTransform(16))
    assert np.abs(image.astype(float) - 127.5).max() < 16  # nearest pixels would be black and white


@pytest.mark.parametrize("pixels", [150, 300])
def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadPairError, match="pixels"):
        decode_picture(encoded(np.zeros((1, pixels, 3), np.uint8)), ImageTransform(8))


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_damaged_files_give_a_square_or_a_reason(data: st.DataObject) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    content = bytearray(encoded(noise, data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        assert decode_picture(bytes(content), ImageTransform(8)).shape == (8, 8, 3)
    except BadPairError as error:
        assert str(error)


def test_truncated_picture_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(noise, kind)
        with pytest.raises(BadPairError, match="cannot be decoded"):
            decode_picture(data[: len(data) // 2], ImageTransform(8))


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(BadPairError, match="floating-point"):
        decode_picture(encoded(np.ones((4, 4), np.float32), "TIFF"), ImageTransform(8))


def test_huge_header_needs_no_memory() -> None:
    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(BadPairError):
        decode_picture(b"\x89PNG\r\n\x1a\n" + chunk, ImageTransform(8))


def test_svg_is_drawn_on_white() -> None:
    image = decode_picture(svg('<rect width="1" height="2" fill="red"/>'), ImageTransform(8))
    assert (image[:, :4] == RED).all() and (image[:, 4:] == 255).all()


def test_svg_keeps_its_aspect() -> None:
    wide = svg('<rect width="4" height="2" fill="red"/><rect width="1" height="2" fill="blue"/>', "0 0 4 2")
    padded = decode_picture(wide, ImageTransform(16))
    assert (padded[:4] == 255).all() and (padded[12:] == 255).all() and close(padded[4:12, 8:], RED)
    assert close(decode_picture(wide, ImageTransform(16, "crop")), RED, 0)
    stretched = decode_picture(wide, ImageTransform(16, "stretch"))
    assert close(stretched[:, 6:], RED, 8) and close(stretched[:, :3], (0, 0, 255), 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (svg(""), "blank"),
        (svg('<rect width="2" height="2" fill="white"/>'), "blank"),
        (b"<svg", "not a valid SVG"),
        (svg("<rect", "0 0 2 2"), "not a valid SVG"),
        (svg('<rect width="1" height="1000"/>', "0 0 1 1000"), "1 to 32|sides"),
        (b"", "cannot be decoded"),
        (b"no picture", "cannot be decoded"),
    ],
)
def test_unusable_pictures_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(BadPairError, match=reason):
        decode_picture(data, ImageTransform(32))


@pytest.mark.parametrize(("wrong", "message"), [({"size": 0}, "size 0"), ({"fit": "zoom"}, "zoom"), ({"margin": "red"}, "red")])
def test_wrong_squares_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageTransform(**wrong)


def test_pictures_are_writable() -> None:
    image = decode_picture(plain(0), ImageTransform(8))
    image[:] = 0
    assert image.sum() == 0


@pytest.mark.parametrize("kind", ["EPS", "PPM", "PCX", "TGA", "SGI"])
def test_formats_that_are_not_meant_are_not_opened(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.fromarray(np.full((9, 9, 3), 90, np.uint8)).save(content, kind)
    monkeypatch.setattr("subprocess.check_call", lambda *args, **kwargs: pytest.fail("another program was started"))
    with pytest.raises(BadPairError, match="cannot be decoded"):
        decode_picture(content.getvalue(), ImageTransform(8))


def test_a_drawing_cannot_show_other_files(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), "red").save(tmp_path / "secret.png")
    embedded = base64.b64encode((tmp_path / "secret.png").read_bytes()).decode()
    picture = '<rect width="1" height="2" fill="lime"/><image href="{}" width="2" height="2"/>'
    assert close(decode_picture(svg(picture.format(f"data:image/png;base64,{embedded}")), ImageTransform(8)), (255, 0, 0))
    for name in (tmp_path / "secret.png", f"file://{tmp_path}/secret.png"):
        shown = decode_picture(svg(picture.format(name)), ImageTransform(8))
        assert close(shown[:, :3], (0, 255, 0)) and close(shown[:, 5:], WHITE)
