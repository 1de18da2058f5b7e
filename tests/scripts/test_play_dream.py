"""`worldmodel play --checkpoint`: the dream is driven beside the simulator by a page, in a browser and through its socket."""

import io
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.driving import Page
from tests.scripts.conftest import Tiny
from tests.scripts.playing import Playing, ask, refused, wait_until
from tests.waiting import PATIENCE, wait_for
from worldmodel.checkpoint import read_checkpoint, save_pretrained

for package in ("starlette", "uvicorn", "websockets"):
    pytest.importorskip(package, reason="the extra `play` is not installed")

NO_BROWSER = ("--port", "0", "--no-browser")


def fetch(playing: Playing, place: str) -> bytes:
    with urllib.request.urlopen(playing.url + place, timeout=PATIENCE) as response:
        return bytes(response.read())


def test_driving_the_dream_in_a_browser(play: Callable[..., Playing], browser: Any, tiny: Tiny) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    playing = play("--checkpoint", tiny.run, *NO_BROWSER)
    browser.get(playing.url)

    page = Page(browser)
    at, pixels = page.at, page.pixels

    wait_for(
        lambda: at("task").text == "worldmodel/TwoRoom-v0" and len(pixels("truth")) == len(pixels("dream")) == 64 * 64 * 4,
        "two frames",
    )
    assert at("dreamt").text == "a real frame" and at("distance").text == "0.00"
    truth, dream = pixels("truth"), pixels("dream")
    for key, words in (("w", "move up"), (Keys.ARROW_LEFT, "move left")):
        before = page.step
        ActionChains(browser).key_down(key).perform()
        wait_for(lambda before=before: page.step >= before + 2, "two steps")
        ActionChains(browser).key_up(key).perform()
        assert at("action").text == words
    wait_for(lambda: pixels("truth") != truth and pixels("dream") != dream, "other frames on both sides")
    assert float(at("distance").text) > 0 and "L" in at("distance_line").get_attribute("d")

    browser.find_element("tag name", "h1").click()
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    wait_for(lambda: at("pause").get_attribute("aria-pressed") == "true", "the pause")
    assert browser.execute_script("return scrollY") == 0, "a space does not scroll"
    paused = page.step
    at("one").click()
    wait_for(lambda: page.step == paused + 1, "one step")
    at("restart").click()
    wait_for(lambda: at("dreamt").text == "a real frame", "another start")

    at("ask").submit()
    wait_for(lambda: "of the dream" in at("answers").text, "captions")
    at("keep").click()
    wait_for(lambda: at("goal_text").text == f"what the simulator showed at step {paused + 1}", "the goal that was kept")
    at("imagine").click()
    wait_for(lambda: at("carry").is_enabled(), "a plan")
    wait_for(lambda: browser.execute_script("return document.getElementById('film').naturalWidth") > 0, "its film")
    at("pause").click()
    at("carry").click()
    wait_for(lambda: "the simulator" in at("note").text, "the outcome of the plan")
    at("new").click()
    wait_for(lambda: page.step == 0, "a new episode")

    controls = [*browser.find_elements("css selector", "button, input, select, canvas, svg, img")]
    assert all(each.accessible_name for each in controls if each.is_displayed())
    browser.set_window_size(500, 844)  # Chromium's windows are no narrower
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.execute_script("return document.getElementById('keys').getBoundingClientRect().bottom <= innerHeight")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    status, out, err = playing.end(signal.SIGINT)
    assert (status, out, err) == (0, "", "")


def test_films_are_downloads(play: Callable[..., Playing], tiny: Tiny) -> None:
    playing = play("--checkpoint", tiny.run, *NO_BROWSER)
    with playing.connect() as page:
        about = wait_until(page, lambda status: True)["about"]
        assert about["task"] == "worldmodel/TwoRoom-v0" and not about["alone"]
        ask(page, do="say", text="move right", steps=2)
        wait_until(page, lambda status: status["step"] == 2)
        film = Image.open(io.BytesIO(fetch(playing, "/film.gif")))
        assert film.format == "GIF" and getattr(film, "n_frames", 0) >= 3
        assert b"ftyp" in fetch(playing, "/film.mp4")[:12]
        with pytest.raises(urllib.error.HTTPError, match="409"):
            fetch(playing, "/plan.gif?1")
        request = urllib.request.Request(playing.url + "/film.gif", headers={"Host": "example.org"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request)
        ask(page, do="imagine", way="cem")
        plan = wait_until(page, lambda status: status["plan"])["plan"]
        assert Image.open(io.BytesIO(fetch(playing, f"/plan.gif?{plan['number']}"))).format == "GIF"
    for place, kind in (("/play.js", b"export function connect"), ("/play.css", b"prefers-color-scheme: dark")):
        assert kind in fetch(playing, place) and b"//" not in fetch(playing, place).replace(b"ws://", b"").replace(b"// ", b"")
    assert "http" not in playing.page, "nothing comes from the net"


def test_the_dream_alone(play: Callable[..., Playing], tiny: Tiny) -> None:
    playing = play("--checkpoint", tiny.run, "--dream-only", "--task", "TwoRoom", *NO_BROWSER)
    with playing.connect() as page:
        first = wait_until(page, lambda status: True)
        assert first["about"]["alone"] and first["truth"] is None
        ask(page, do="say", text="move right", steps=2)
        assert wait_until(page, lambda status: status["step"] == 2)["dream"] != first["dream"]


def test_what_does_not_fit_is_one_sentence(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "needs the --checkpoint" in refused(capsys, "--dream-only", *NO_BROWSER)
    assert "leave out one of --out, --checkpoint" in refused(capsys, "--checkpoint", tiny.run, "--out", "x.h5", *NO_BROWSER)
    assert "there is no checkpoint folder" in refused(capsys, "--checkpoint", tmp_path / "none", *NO_BROWSER)
    assert "trained on worldmodel/TwoRoom-v0" in refused(capsys, "--checkpoint", tiny.run, "--task", "PushT", *NO_BROWSER)
    trained = read_checkpoint(tiny.run)
    for name, card, words in (("none", {"tasks": {}}, "no task with actions"), ("foreign", FOREIGN, "module")):
        save_pretrained(tmp_path / name, trained.model, trained.tokenizer, trained.codec, trained.card | card)
        assert words in refused(capsys, "--checkpoint", tmp_path / name, *NO_BROWSER)


FOREIGN = {"tasks": {"stranger.module:Name-v0": ["dx", "dy"]}}
"""Whoever reads a checkpoint does not import what its card names."""


def test_a_model_that_predicts_nan_says_so_on_the_page(tiny: Tiny, play: Callable[..., Playing], tmp_path: Path) -> None:
    trained = read_checkpoint(tiny.run)
    for parameter in trained.model.parameters():
        parameter.data.mul_(1e18)  # finite, as every checkpoint that is read
    save_pretrained(tmp_path / "vast", trained.model, trained.tokenizer, trained.codec, trained.card)
    playing = play("--checkpoint", tmp_path / "vast", *NO_BROWSER)
    with playing.connect() as page:
        ask(page, do="say", text="move right", steps=2)
        status = wait_until(page, lambda status: status["step"] == 2)
        assert status["failed"] and "not finite" in status["note"] and status["lost"]
        ask(page, do="imagine")
        status = wait_until(page, lambda status: "finite" in status["note"] and status["plan"] is None)
        ask(page, do="new")
        wait_until(page, lambda status: status["step"] == 0)
    assert playing.end(signal.SIGINT)[0] == 0
