import io
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageFont

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.episodes.preview import CAPTION_LINES, FONT_SIZE, GAP, LINE, STRIP, TILE, _wrapped, preview
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError


def coloured(index: int, num_actions: int) -> dict[str, np.ndarray]:
    """Frames of one colour each: red tells the episode, green the step."""
    frames = np.zeros((num_actions + 1, 16, 16, 3), np.uint8)
    frames[..., 0] = 50 * (index + 1)
    frames[..., 1] = 20 * np.arange(num_actions + 1)[:, None, None]
    return {"frames": frames}


def decoded(path: Path) -> np.ndarray:
    """Frames of a film, uint8 (t, height, width, 3)."""
    raw = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    count = imageio_ffmpeg.count_frames_and_secs(str(path))[0]
    side = 2 * (TILE + GAP) + GAP, 2 * (TILE + STRIP) + GAP
    return np.frombuffer(subprocess.run(raw, capture_output=True, check=True).stdout, np.uint8).reshape(count, side[1], side[0], 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lengths = (4, 9, 2)
    write_episodes(tmp_path / "toy.h5", [make_episode(i, n, **coloured(i, n)) for i, n in enumerate(lengths)], {})
    return tmp_path / "toy.h5"


def test_the_contact_sheet_shows_the_right_frames(path: Path) -> None:
    out = preview(path)
    assert out == path.with_suffix(".png")
    sheet = np.asarray(Image.open(io.BytesIO(out.read_bytes())))
    step = TILE + GAP
    row_height = (len(sheet) - GAP) // 3
    middle = [GAP + LINE + TILE // 2 + i * row_height for i in range(3)]
    for i, last in enumerate((4, 9, 2)):
        assert tuple(sheet[middle[i], GAP + TILE // 2]) == (50 * (i + 1), 0, 0), "the first frame"
        columns = min(last + 1, 8)
        assert tuple(sheet[middle[i], GAP + TILE // 2 + (columns - 1) * step]) == (50 * (i + 1), 20 * last, 0), "the last frame"
    captions = sheet[GAP + LINE + TILE : GAP + row_height]
    assert (captions < 200).any(), "something is written below the frames"


def test_the_film_shows_all_episodes_step_by_step(path: Path, tmp_path: Path) -> None:
    out = preview(path, tmp_path / "new" / "film.mp4")
    film = decoded(out)
    assert len(film) == 32, "as long as the longest episode, of nine steps, and still for the rest of four seconds"
    for t, picture in enumerate(film):
        for i, last in enumerate((4, 9, 2)):
            y, x = GAP + TILE // 2 + i // 2 * (TILE + STRIP), GAP + TILE // 2 + i % 2 * (TILE + GAP)
            expected = np.array([50 * (i + 1), 20 * min(t, last), 0])
            assert np.abs(picture[y, x].astype(int) - expected).max() < 12, (t, i)
    assert [file.name for file in out.parent.iterdir()] == ["film.mp4"]


def test_episodes_without_words_and_other_endings(tmp_path: Path) -> None:
    texts = dict.fromkeys(("captions", "questions", "answers"), [""] * 6)
    write_episodes(tmp_path / "toy.h5", [make_episode(**texts, goal_text="", policy="")], {})
    preview(tmp_path / "toy.h5", tmp_path / "sheet.PNG")
    write_toy_file(tmp_path / "words.h5", (5,))
    preview(tmp_path / "words.h5", tmp_path / "words.png")
    heights = [Image.open(io.BytesIO((tmp_path / name).read_bytes())).height for name in ("sheet.PNG", "words.png")]
    assert heights[0] < heights[1]
    with pytest.raises(UserError, match="ends in .png"):
        preview(tmp_path / "toy.h5", tmp_path / "sheet.jpg")
    with pytest.raises(UserError, match="no such file"):
        preview(tmp_path / "nowhere.h5")


def test_no_letter_of_a_caption_is_cut_off() -> None:
    font = ImageFont.load_default(FONT_SIZE)
    text = "two rooms from above. the purple disc is in the left room, near the middle"
    for width in range(90, 200, 7):
        lines = _wrapped(text, width, font)
        assert all(font.getlength(line) <= width for line in lines)
        assert len(lines) == CAPTION_LINES or " ".join(lines) == text
