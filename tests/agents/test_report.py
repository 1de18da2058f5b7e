"""The report: self-contained, escaped, complete; the video bytes decode to the frames."""

import json
import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from worldmodel.agents.report import (
    Curves,
    Intervals,
    Picture,
    SectionRow,
    Table,
    TextSection,
    Video,
    video_bytes,
    write_report,
)
from worldmodel.datasets.outputs import MARK

FRAMES = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 16 * 18 * 3).reshape(5, 16, 18, 3)


def decode(path, height, width):
    """All frames of a film, by the ffmpeg program itself."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def test_report_is_one_file_with_everything_inside(tmp_path):
    path = tmp_path / "report.html"
    sections = [
        TextSection("Setting", "first part\n\nsecond <part>"),
        Table("Scores", ["controller", "rate"], [["random", 0.12345], ["oracle & co", 1.0]], note="n = 56"),
        Picture("A frame", FRAMES[0], note="64 px"),
        Curves("Loss", {"train": ([1, 2, 3], [3.0, 2.0, 1.5])}, "step", "loss", log_y=True),
        Intervals("Success", {"random": (0.0, 0.1, 0.2), "oracle": (0.9, 1.0, 1.0)}, "success rate"),
        SectionRow("Films", [Video("truth", video_bytes(FRAMES)), Video("dream", video_bytes(FRAMES))]),
    ]
    write_report(path, sections, title="A <title>", data={"rate": 0.5})
    page = path.read_text()
    assert [each.name for each in sorted(tmp_path.iterdir())] == ["report.html", "report.json"]
    assert json.loads((tmp_path / "report.json").read_text()) == {"generator": MARK, "rate": 0.5}
    for expected in ("A &lt;title&gt;", "second &lt;part&gt;", "oracle &amp; co", "0.123", "n = 56", "64 px"):
        assert expected in page
    sources = re.findall(r"src='([^']{10})", page)
    assert len(sources) == 5 and all(source == "data:image" or source == "data:video" for source in sources)
    assert "http" not in re.sub(r"base64,[^']*", "", page)


def test_a_film_is_large_and_lasts_long_enough_to_be_followed(tmp_path):
    (tmp_path / "film.mp4").write_bytes(video_bytes(FRAMES))
    film = decode(tmp_path / "film.mp4", 15 * 16, 15 * 18)  # 270 wide
    assert imageio_ffmpeg.count_frames_and_secs(tmp_path / "film.mp4") == (8, 4.0), "two frames a second, then it stands still"
    means = FRAMES.mean(axis=(1, 2, 3))
    assert np.abs(film.mean(axis=(1, 2, 3)) - [*means, *means[-1:].repeat(3)]).max() < 6


def test_a_row_with_too_few_cells_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"table 'T': row \['a'\] does not have 2 cells"):
        write_report(tmp_path / "r.html", [Table("T", ["x", "y"], [["a"]])])
    assert not (tmp_path / "r.html").exists()


def test_not_a_number_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_report(tmp_path / "r.html", [], data={"loss": float("nan")})
