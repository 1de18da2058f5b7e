"""A running `worldmodel play`, and its socket as the page uses it."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE
from worldmodel.scripts.cli import run


class Playing:
    """A running `worldmodel play`."""

    def __init__(self, root: Path, *flags: object) -> None:
        command = [sys.executable, "-W", "error", "-m", "worldmodel.scripts.cli", "play", *map(str, flags)]
        env = os.environ | {"PYTHONPATH": str(root)}
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " at http://127.0.0.1:" in line, self.end(signal.SIGKILL)
        self.url = line.split(" at ")[1].split()[0]
        with urllib.request.urlopen(self.url, timeout=PATIENCE) as response:  # it serves
            self.page = response.read().decode()

    def end(self, number: int) -> tuple[int, str, str]:
        """Status, output and errors after a signal."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def connect(self, **settings: Any) -> Any:
        """The socket, as the page opens it."""
        from websockets.sync import client

        settings = {"origin": self.url, "open_timeout": PATIENCE} | settings
        return client.connect(self.url.replace("http", "ws") + "/socket", **settings)


def ask(page: Any, **message: Any) -> None:
    page.send(json.dumps(message))


def wait_until(page: Any, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Reads what the server tells until it is so."""
    while True:
        status = json.loads(page.recv(timeout=PATIENCE))
        if condition(status):
            return status


def refused(capsys: pytest.CaptureFixture[str], *flags: object) -> str:
    """The one line that says what is wrong, before anything is served."""
    assert run(["play", *map(str, flags)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("worldmodel play: error: ") and err.count("\n") == 1
    return err
