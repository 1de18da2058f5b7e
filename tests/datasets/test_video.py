"""Films of other people: every frame once whatever their clock says, and nothing but the film itself is opened."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from tests.datasets.counter import draw_number, read_numbers
from worldmodel.datasets.video import DamagedVideo, VideoWriter, decode, frame_rate

FRAMES = 12
STALL = "if(between(N,4,8),1000*8/30-(8-N)*4,N*1000/30)"
"""A camera that stalls once and then delivers four frames within 16 ms."""
CLOCKS = {
    "even": "N*1000/30",
    "a stall": STALL,
    "all but at once": "N",
    "pairs": "N*1000/30+if(mod(N,2),0,30)",
    "slower and slower": "N*N*10",
    "a long gap": "if(gt(N,5),N*33+5000,N*33)",
}
CODECS = {
    "a.mp4": ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "0"),
    "a.mov": ("-c:v", "mpeg4", "-q:v", "2"),
    "a.mkv": ("-c:v", "ffv1"),
    "a.gif": (),
}


def write_film(path: Path, clock: str, codec: tuple[str, ...], tick: str = "1/1000") -> None:
    """A film whose frame t shows the number t, at uneven times, in ticks."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        "32x32",
        "-r",
        "30",
        "-i",
        "-",
    ]
    command += ["-vf", f"settb={tick},setpts='{clock}'", "-fps_mode", "passthrough", "-enc_time_base", tick, *codec, str(path)]
    subprocess.run(command, input=b"".join(draw_number(t).tobytes() for t in range(FRAMES)), check=True)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_every_frame_of_a_film_is_given_once_and_in_order_whatever_its_clock(tmp_path: Path, name: str, clock: str) -> None:
    write_film(tmp_path / name, clock, CODECS[name])
    assert read_numbers(np.stack(list(decode(tmp_path / name)))) == list(range(FRAMES))
    assert read_numbers(np.stack(list(decode(tmp_path / name, size=16)))) == list(range(FRAMES))


def test_frames_within_one_tick_of_the_clock_that_they_are_given_out_by(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", "if(N,90000+N,0)", CODECS["a.mp4"], tick="1/90000")
    assert read_numbers(np.stack(list(decode(tmp_path / "a.mp4")))) == list(range(FRAMES))


@pytest.mark.parametrize("content", ["ffconcat version 1.0\nfile secret.mp4\n", "#EXTM3U\n#EXTINF:2,\nsecret.mp4\n#EXT-X-ENDLIST\n"])
@pytest.mark.parametrize("name", ["script.mp4", "script.m3u8"])
def test_a_script_that_names_other_files_is_no_film(tmp_path: Path, content: str, name: str) -> None:
    with VideoWriter(tmp_path / "secret.mp4", 10) as video:
        for number in range(3):
            video.add(draw_number(number))
    (tmp_path / name).write_text(content)
    with pytest.raises(DamagedVideo):
        list(decode(tmp_path / name))
    assert frame_rate(tmp_path / name) is None and frame_rate(tmp_path / "secret.mp4") == 10
