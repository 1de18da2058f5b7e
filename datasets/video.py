"""mp4 in and out through ffmpeg, a frame at a time: nothing but the current frame is kept in memory."""

import contextlib
import io
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageOps

from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.pictures.images import eight_bits, upright
from worldmodel.errors import UserError

VideoFit = Literal["crop", "pad"]
"""How a picture becomes a square: its middle is cut out, or black bars are added."""
LOSSLESS = 0
GOOD = 18
"""Constant rate factors of H.264: 0 keeps every bit, about 18 looks the same to the eye."""

DEFAULT_FPS = 10.0
CONTAINERS = ("mov", "matroska", "webm", "avi", "gif", "mpegts", "mpeg", "flv", "ogg", "asf")
"""ffmpeg's names of the formats that are opened; mov is mp4, too."""
_TICK = "1/1000"


class DamagedVideo(Exception):
    """A video that cannot be decoded to its end; the text says what the decoder said."""


def decode(path: Path, size: int | None = None, fit: VideoFit = "crop") -> Iterator[np.ndarray]:
    """Decode all frames of a video, in order of display, each exactly once: uint8 (H, W, 3).

    Args:
        path: a file of one of `CONTAINERS`, whatever its name.
        size: height and width in pixels to bring frames to; None leaves them as they are.
        fit: what to do with frames that are not square when `size` is given.

    Raises:
        DamagedVideo: it is not a video, is empty or breaks off; the frames before that have been given.
    """
    if _cut_off(path):
        raise DamagedVideo("the file is cut off")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-xerror", "-err_detect", "explode", *_input(path)]
    # Pictures in the PPM format carry their size; passthrough: no frame is repeated or left out to even out the rate. Frames are given
    # even times: two of a film with uneven ones may come within one tick of the output's clock.
    filters = [_filters(size, fit)] if size else []
    command += ["-map", "0:v:0", "-an", "-fps_mode", "passthrough", "-vf", ",".join([*filters, f"settb={_TICK},setpts=N"])]
    command += ["-enc_time_base", _TICK, "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        frames, finished = 0, False
        try:
            while (frame := _read_ppm(process.stdout)) is not None:
                frames += 1
                yield frame
            finished = True
        finally:
            process.stdout.close()
            if not finished:
                process.kill()
            process.wait()
        log.seek(0)
        said = log.read(2000).decode(errors="replace").strip().splitlines()
        if process.returncode or said or not frames:
            raise DamagedVideo(said[0] if said else "it has no frames")


def _input(path: Path) -> list[str]:
    """Make the arguments of ffmpeg for a film; "file:" because a colon in the name is no protocol.

    Only formats that hold the film itself are opened: a playlist or a script would have other files read, or fetched.
    """
    return ["-protocol_whitelist", "file", "-format_whitelist", ",".join(CONTAINERS), "-i", f"file:{path}"]


def _cut_off(path: Path) -> bool:
    """Test whether an mp4 file's last box ends beyond the file: ffmpeg may leave out its frames without a word."""
    length = path.stat().st_size
    with path.open("rb") as file:
        if file.read(8)[4:] != b"ftyp":
            return False
        place = 0
        while place + 8 <= length:
            file.seek(place)
            header = file.read(16)
            size = int.from_bytes(header[:4], "big")
            if size == 1:  # the size did not fit into four bytes
                size = int.from_bytes(header[8:16], "big")
            if size < 8:  # 0: to the end of the file
                return False
            place += size
    return place > length


def _filters(size: int, fit: VideoFit) -> str:
    if fit == "crop":
        return f"crop='min(iw,ih)':'min(iw,ih)',scale={size}:{size}:flags=area"
    bars = f"pad={size}:{size}:(ow-iw)/2:(oh-ih)/2"
    return f"scale={size}:{size}:force_original_aspect_ratio=decrease:flags=area,{bars}"


def _read_ppm(pipe: IO[bytes]) -> np.ndarray | None:
    """Read the next picture, or None where the stream ends (in the middle of a picture too: ffmpeg was cut off)."""
    header = [pipe.readline() for _ in range(3)]
    if header[0].strip() != b"P6" or not header[2]:
        return None
    width, height = map(int, header[1].split())
    data = pipe.read(width * height * 3)
    return np.frombuffer(data, np.uint8).reshape(height, width, 3) if len(data) == width * height * 3 else None


def fit_image(image: Image.Image, size: int | None, fit: VideoFit = "crop") -> np.ndarray:
    """Fit a picture, upright, as uint8 (H, W, 3), brought to `size` x `size` pixels as `decode` does; ValueError for float pixels."""
    image = eight_bits(upright(image)).convert("RGB")
    if size and fit == "crop":
        image = ImageOps.fit(image, (size, size), Image.Resampling.BOX)
    elif size:
        image = ImageOps.pad(image, (size, size), Image.Resampling.BOX)
    return np.asarray(image)


def encode_png(frame: np.ndarray) -> bytes:
    """Encode a frame, uint8 (H, W, 3), as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "png")
    return file.getvalue()


def frame_rate(path: Path) -> float | None:
    """Read the frames per second that a video file claims; None when it claims nothing or cannot be read."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", *_input(path)]  # no output: it only describes
    said = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).stderr.decode(errors="replace")
    found = re.search(r"Video: .*?(\d+(?:\.\d+)?) fps", said)
    return float(found[1]) or None if found else None


def fps_of(store: EpisodeStore) -> float:
    """Return the recorded steps per second that an episode file states, else 10."""
    return float(store.meta.get("fps") or DEFAULT_FPS)


class VideoWriter:
    """Writes H.264 mp4, frame by frame.

    Args:
        path: the file to make.
        fps: frames per second.
        crf: quality, 0 (lossless, RGB; not every player takes it) to 51 (worst).
        keyframe_every: a decoder that looks for a frame starts at most this many frames before it.
        comment: what the file says about itself.
    """

    def __init__(self, path: Path, fps: float, crf: int = GOOD, keyframe_every: int = 12, comment: str = "") -> None:
        self.path, self.fps, self.crf, self.keyframe_every, self.comment = path, fps, crf, keyframe_every, comment
        self.num_frames = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def add(self, frame: np.ndarray) -> None:
        """Append uint8 (H, W, 3), of the size of the first one; UserError where ffmpeg gave up (no room on the disk, ...)."""
        process = self._process or self._start(*frame.shape[:2])
        assert process.stdin is not None
        try:
            process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError as error:
            raise self._failed() from error
        self.num_frames += 1

    def _start(self, height: int, width: int) -> "subprocess.Popen[bytes]":
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", f"{self.fps:g}", "-i", "-", "-an", "-bf", "0", "-g", str(self.keyframe_every)]
        if self.crf == LOSSLESS:
            command += ["-c:v", "libx264rgb", "-qp", "0"]
        else:  # subsampled color, which every player takes, needs even sizes
            pixels = "yuv444p" if height % 2 or width % 2 else "yuv420p"
            command += ["-c:v", "libx264", "-crf", str(self.crf), "-pix_fmt", pixels]
        command += ["-metadata", f"comment={self.comment}"] if self.comment else []
        command += ["-threads", "1", "-movflags", "+faststart", f"file:{self.path}"]
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log)
        return self._process

    def _failed(self) -> UserError:
        assert self._log is not None
        self._log.seek(0)
        said = self._log.read(2000).decode(errors="replace").strip().splitlines()
        reason = said[0] if said else "no message"
        return UserError(f"cannot write {self.path}: ffmpeg stopped ({reason}); make room or choose another place")

    def close(self) -> None:
        """End the file; UserError where ffmpeg could not write all of it."""
        process, self._process = self._process, None
        if process is None or self._log is None:
            return
        with self._log:
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # the exit status shows the failure
                process.stdin.close()
            if process.wait():
                raise self._failed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    def abandon(self) -> None:
        """Stop, if it was not closed; what has been written is of no use."""
        process, self._process = self._process, None
        if process is not None and self._log is not None:
            process.kill()
            process.communicate()
            self._log.close()
