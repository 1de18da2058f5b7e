"""Shared by all tests: nothing is written outside pytest's folders; commands run as a user runs them."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.forks import CLI, Forks, forks

# The same examples in every run, and none refused for the time it takes: what fails is a change, never a slow or an unlucky machine.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: toy tensors are slower on more threads


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Point WORLDMODEL_HOME, of this process and its children, at an empty folder."""
    home = tmp_path_factory.mktemp("home")
    os.environ["WORLDMODEL_HOME"] = str(home)
    return home


@pytest.fixture(autouse=True)
def as_if_alone() -> Iterator[None]:
    """Draws without a seed of their own do not depend on the tests before, nor does what is logged: a verb sets the level."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    level = logging.getLogger("worldmodel").level
    yield
    logging.getLogger("worldmodel").setLevel(level)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def forked(own_home: Path) -> Iterator[Forks]:
    """Runs commands and scripts as Python does, without a second import of torch."""
    with forks() as server:
        yield server


@pytest.fixture
def run_command(tmp_path: Path, forked: Forks) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_command("envs", "--help")` runs `worldmodel envs --help` in an empty folder."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        return forked.python(*CLI, *args, folder=tmp_path, env=os.environ)

    return run
