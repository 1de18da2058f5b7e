"""One tiny collection, codec and checkpoint, made through the console command, for the tests of the verbs."""

import contextlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.playing import Playing
from tests.scripts.refusals import Refused, sentence
from worldmodel.scripts.cli import run

TINY_CODEC = (
    "--codec.masked.steps 2 --codec.joint.steps 2 --codec.decoder-steps 2 --codec.batch-size 4 --codec.probe-frames 64 "
    "--codec.encoder.width 32 --codec.encoder.depth 1 --codec.encoder.channels 16 --codec.decoder.width 32 "
    "--codec.decoder.depth 1"
).split()
TINY_MODEL = (
    "--preset tiny --model.channels 16 --model.trunk.width 48 --model.trunk.depth 1 --model.trunk.heads 2 "
    "--model.trunk.kv-heads 1 --model.trunk.hidden 64 --train.steps 2 --train.packing.rows 2 "
    "--train.sample-every 0 --train.dtype float32"
).split()


@dataclass(frozen=True)
class Tiny:
    """Where everything lies; nobody changes it."""

    data: Path
    """Episodes at 64 px."""
    small_frames: Path
    """Episodes at 48 px."""
    texts: Path
    """A corpus."""
    codec: Path
    """A codec of 64 px."""
    run: Path
    """A finished training run."""

    @property
    def mixture(self) -> list[str]:
        """Flags of a mixture that needs no package."""
        return ["--mixture.corpora", str(self.texts), "--mixture.pictures", "0", "--mixture.held-out", "0.4"]

    @property
    def codec_flags(self) -> list[str]:
        """What `codec` was made with."""
        return ["codec", "--data", str(self.data), "--out", str(self.codec), *self.mixture, *TINY_CODEC]

    @property
    def pretrain_flags(self) -> list[str]:
        """What `run` was made with; flags that are appended reach the model or its training."""
        flags = ["--data", str(self.data), "--codec", str(self.codec), "--out", str(self.run), "--vocab-size", "400"]
        return ["pretrain", *flags, *self.mixture, *TINY_MODEL]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Collected, encoded and trained for a few steps."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny = Tiny(*(folder / name for name in ("data.h5", "small_frames.h5", "texts.jsonl", "codec", "run")))
    lines = [json.dumps({"text": f"The Congress met {n} times, and our economy grew."}) for n in range(20)]
    tiny.texts.write_text("\n".join(lines))
    collect = ["collect", "--episodes", "5", "--max-steps", "12", "--workers", "1", "--out"]
    assert run([*collect, str(tiny.data)]) == 0
    assert run([*collect, str(tiny.small_frames), "--image-size", "48"]) == 0
    assert run(tiny.codec_flags) == 0
    assert run(tiny.pretrain_flags) == 0
    return tiny


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command in this process, checks how it complains, and returns the sentence."""

    def check(verb: str, *flags: object) -> str:
        capfd.readouterr()
        status = run([verb, *map(str, flags)])
        return sentence(verb, status, *capfd.readouterr())

    return check


@pytest.fixture
def killed_third(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the experiments that are begun, in order; the third of them is interrupted at once."""
    from worldmodel.studies.experiment_runner import ExperimentRunner

    run, begun = ExperimentRunner.run, []

    def counted(self: ExperimentRunner, preset: object, folder: Path, stop: object = None) -> object:
        begun.append(folder.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return run(self, preset, folder, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(ExperimentRunner, "run", counted)
    return begun


@pytest.fixture
def play(root: Path) -> Iterator[Callable[..., Playing]]:
    with contextlib.ExitStack() as stack:

        def start(*flags: object) -> Playing:
            playing = Playing(root, *flags)
            stack.callback(lambda: playing.process.poll() is None and playing.end(signal.SIGKILL))
            return playing

        yield start


@pytest.fixture
def browser() -> Iterator[Any]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver_of_it = shutil.which("chromedriver")
    if chromium is None or driver_of_it is None:
        pytest.skip("no headless browser: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1060,900"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(driver_of_it))
    yield driver
    driver.quit()
