"""The page in a real headless browser, the socket behind it, and what happens when it ends."""

import asyncio
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.driving import Page
from tests.scripts.playing import Playing, ask, refused, wait_until
from tests.waiting import wait_for
from worldmodel.datasets.collection import page_server
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.envs import make_task
from worldmodel.scripts.cli import run

for package in ("starlette", "uvicorn", "websockets"):
    pytest.importorskip(package, reason="the extra `play` is not installed")

SMALL = ("--image-size", "48", "--record-size", "16", "--no-browser")


# the page


def test_driving_recording_and_saving_in_a_browser(play: Callable[..., Playing], browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    path = tmp_path / "drives.h5"
    playing = play("--task", "worldmodel/TwoRoom-v0", "--out", path, "--port", "0", *SMALL)
    browser.get(playing.url)

    page = Page(browser)
    at, pixels = page.at, page.pixels

    wait_for(
        lambda: at("task").text == "worldmodel/TwoRoom-v0" and len(pixels("frame")) == len(pixels("goal")) == 48 * 48 * 4, "a frame"
    )
    task = make_task("worldmodel/TwoRoom-v0")
    assert at("goal_text").text and set(task.language.read(at("caption").text)) == set(task.language.attributes)
    words = [button.text.split("\n") for button in at("keys").find_elements("tag name", "button")]
    assert ["a", "move left"] in words and ["w", "move up"] in words

    before = pixels("frame")
    ActionChains(browser).key_down("w").perform()
    wait_for(lambda: page.step >= 3, "three steps")
    ActionChains(browser).key_up("w").perform()
    wait_for(lambda: pixels("frame") != before, "another frame")
    assert at("action").text == "last action: move up"

    ActionChains(browser).click_and_hold(at("keys").find_elements("tag name", "button")[0]).perform()
    wait_for(lambda: "move left" in at("action").text, "the button")
    ActionChains(browser).release().perform()

    at("say").send_keys("fly")
    at("words").submit()
    wait_for(lambda: "fly" in at("note").text, "the complaint, which is heard after the release: nothing moves any more")
    stopped = page.step
    at("say").clear()
    at("say").send_keys("move a little right")
    at("steps").clear()
    at("steps").send_keys("2")
    at("words").submit()
    wait_for(lambda: "a little right" in at("action").text and page.step >= stopped + 2, "the words")
    driven = page.step

    goal = pixels("goal")
    at("cameras").find_elements("tag name", "button")[1].click()
    wait_for(lambda: pixels("goal") != goal, "the other camera")

    at("new").click()
    wait_for(lambda: page.step == 0 and "episode 0 recorded" in at("note").text, "a new episode")
    ActionChains(browser).key_down("d").perform()
    wait_for(lambda: page.step >= 2, "steps of the second episode")
    ActionChains(browser).key_up("d").perform()
    at("save").click()
    wait_for(lambda: "holds 2 episodes" in at("note").text, "saving")
    with EpisodeStore(path) as store:
        assert len(store) == 2 and store.image_size == 16 and store.texts("policy") == ["human"] * 2
        assert store.lengths[0] == driven
        words = store.episode(0).action_words
    assert words[:3] == ["move up"] * 3 and "move left" in words and words[-2:] == ["move a little right"] * 2
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []

    status, out, err = playing.end(signal.SIGINT)
    assert (status, err) == (0, "") and f"{path}: 2 episodes" in out
    assert [file.name for file in tmp_path.iterdir()] == ["drives.h5"]


# how it ends


def test_ctrl_c_keeps_everything_and_the_next_run_adds(play: Callable[..., Playing], tmp_path: Path) -> None:
    path = tmp_path / "drives.h5"
    for number in range(2):
        playing = play("--task", "worldmodel/Reacher-v0", "--out", path, "--port", "0", "--variation", "all", *SMALL)
        with playing.connect() as page:
            status = wait_until(page, lambda status: True)
            assert status["saved"] == number
            ask(page, do="say", text="turn the elbow clockwise", steps=3)
            wait_until(page, lambda status: status["step"] == 3)
            status, out, err = playing.end(signal.SIGINT)
        assert (status, err) == (0, "")
        assert f"{path}: {number + 1} episodes, 1 of them driven now" in out
    with EpisodeStore(path) as store:
        assert store.lengths.tolist() == [3, 3]
        first, second = store.episode(0), store.episode(1)
        assert not np.array_equal(first.state[0], second.state[0]) and first.variation != second.variation


def test_a_kill_loses_only_the_running_episode(play: Callable[..., Playing], tmp_path: Path) -> None:
    path = tmp_path / "drives.h5"
    flags = ("--task", "worldmodel/TwoRoom-v0", "--out", path, "--port", "0", *SMALL)
    playing = play(*flags)
    with playing.connect() as page:
        ask(page, do="say", text="move left", steps=4)
        wait_until(page, lambda status: status["step"] == 4)
        ask(page, do="new")
        wait_until(page, lambda status: status["waiting"] == 1)
        ask(page, do="say", text="move up", steps=2)
        wait_until(page, lambda status: status["step"] == 2)
        playing.end(signal.SIGKILL)
    assert not path.exists()
    status, out, _ = play(*flags).end(signal.SIGINT)
    assert status == 0 and f"{path}: 1 episodes, 0 of them driven now" in out
    with EpisodeStore(path) as store:
        assert store.texts("action_words") == ["move left"] * 4


def test_nothing_driven_leaves_no_file(play: Callable[..., Playing], tmp_path: Path) -> None:
    playing = play("--out", tmp_path / "drives.h5", "--port", "0", *SMALL)
    status, out, err = playing.end(signal.SIGINT)
    assert (status, err) == (0, "") and "nothing was recorded" in out
    assert list(tmp_path.iterdir()) == []


# several pages


def test_a_page_that_closes_lets_go_of_its_own_keys_alone(play: Callable[..., Playing], tmp_path: Path) -> None:
    playing = play("--out", tmp_path / "drives.h5", "--port", "0", *SMALL)
    with playing.connect() as page:
        with playing.connect() as other:
            ask(page, do="keys", keys=["d"])
            wait_until(other, lambda status: status["step"] >= 2)
        start = wait_until(page, lambda status: True)["step"]
        wait_until(page, lambda status: status["step"] >= start + 8)
        with playing.connect() as other:
            ask(other, do="keys", keys=["a"])
            wait_until(other, lambda status: "left" in status["action"])
        ask(page, do="clock", always=True)
        wait_until(page, lambda status: status["action"] == "stay still")


def test_pages_that_vanish_do_not_stop_the_clock(play: Callable[..., Playing], tmp_path: Path) -> None:
    playing = play("--out", tmp_path / "drives.h5", "--port", "0", *SMALL)
    with playing.connect() as page:
        ask(page, do="clock", always=True)
        for _ in range(10):
            with playing.connect() as other:
                wait_until(other, lambda status: True)
                other.socket.shutdown(socket.SHUT_RDWR)  # without a word
        page.send(b"bytes")
        ask(page, do=[])
        start = wait_until(page, lambda status: True)["step"]
        wait_until(page, lambda status: status["step"] >= start + 5)
        status, _, err = playing.end(signal.SIGINT)
    assert (status, err) == (0, "")


def test_a_page_that_is_gone_or_does_not_read_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.websockets import WebSocketDisconnect

    class Page:
        def __init__(self, fails: bool = False, seconds: float = 0.0) -> None:
            self.fails, self.seconds, self.told = fails, seconds, 0

        async def send_json(self, status: dict[str, Any]) -> None:
            await asyncio.sleep(self.seconds)
            if self.fails:
                raise WebSocketDisconnect(1006)
            self.told += 1

    class Parked:
        def status(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(page_server, "SECONDS_TO_TELL", 0.01)
    station = page_server.Station(Parked(), {})  # type: ignore[arg-type]
    pages = [Page(), Page(fails=True), Page(seconds=60.0), Page()]
    station._pages = set(pages)  # type: ignore[arg-type]
    for _ in range(2):
        asyncio.run(station._tell_all())
    assert [page.told for page in pages] == [2, 0, 0, 2]


# who may drive


def test_other_sites_can_neither_drive_nor_look(play: Callable[..., Playing], tmp_path: Path) -> None:
    from websockets.exceptions import InvalidStatus

    playing = play("--out", tmp_path / "drives.h5", "--port", "0", *SMALL)
    for origin in ("http://example.org", None):
        with pytest.raises(InvalidStatus, match="403"), playing.connect(origin=origin):
            pass
    with pytest.raises(InvalidStatus, match="400"), playing.connect(additional_headers={"Host": "example.org"}):
        pass
    request = urllib.request.Request(playing.url, headers={"Host": "example.org"})
    with pytest.raises(urllib.error.HTTPError, match="400") as error:
        urllib.request.urlopen(request)
    error.value.close()
    assert "<title>worldmodel play</title>" in playing.page and "https://" not in playing.page, "nothing comes from the net"
    with playing.connect() as page:
        page.send("{")
        assert "unknown" in wait_until(page, lambda status: status["failed"])["note"]


# mistakes


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "worldmodel/TwoRooms-v0"], "did you mean 'worldmodel/TwoRoom-v0'"),
        (["--variation", "disk.color"], "unknown factor of variation 'disk.color'"),
        (["--port", "70000"], "--port 70000"),
        (["--record-size", "8"], "--record-size 8"),
        (["--max-steps", "0"], "--max-steps 0"),
        (["--seed", "-1"], "--seed -1"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = [] if "--port" in flags else ["--port", "0"]
    assert words in refused(capsys, *flags, *port, "--no-browser", "--out", tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(capsys, "--port", port, "--no-browser", "--out", tmp_path / "x.h5")
    assert f"cannot use port {port}: Address already in use" in said


def test_a_file_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.h5"
    assert run(["collect", "--out", str(path), "--episodes", "1", "--max-steps", "2", "--workers", "1", "--image-size", "16"]) == 0
    capsys.readouterr()
    before = path.read_bytes()
    said = refused(capsys, "--port", 0, "--no-browser", "--out", path)
    assert str(path) in said and "worldmodel play" in said
    assert path.read_bytes() == before


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'worldmodel[play]'" in refused(capsys)
