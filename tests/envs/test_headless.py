"""Choosing OpenGL, and saying what to do where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worldmodel.envs.headless import choose_backend

RENDER = """
from worldmodel.envs import make_task
from worldmodel.errors import UserError
try:
    obs, _ = make_task("worldmodel/TwoRoom-v0").reset(seed=0)
except UserError as error:
    print("UserError:", error)
else:
    import os
    print(os.environ["MUJOCO_GL"], obs["pixels"].std() > 10)
"""


def run_with(root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Render one frame in a fresh process without a display, with only these variables about OpenGL."""
    names = ("MUJOCO_GL", "DISPLAY", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID")
    env = {name: value for name, value in os.environ.items() if name not in names}
    env |= {"PYTHONPATH": str(root), **variables}
    return subprocess.run([sys.executable, "-c", RENDER], env=env, capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    "variables",
    [
        {"MUJOCO_GL": "nonsense"},
        {"MUJOCO_GL": "glfw"},
        {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"},
        {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "egl"},
    ],
    ids=["unknown", "needs-a-display", "no-such-device", "contradiction"],
)
def test_missing_opengl_is_one_clear_error(root: Path, variables: dict[str, str]) -> None:
    printed = run_with(root, **variables).stdout
    assert printed.startswith(f"UserError: cannot render with MUJOCO_GL={variables['MUJOCO_GL']}")
    assert "apt-get install libosmesa6 libegl1 libgl1-mesa-dri" in printed
    assert "MUJOCO_GL=egl or MUJOCO_GL=osmesa" in printed


def test_works_with_nothing_set_and_exits_quietly(root: Path) -> None:
    result = run_with(root)
    assert result.stdout.split()[0] in ("egl", "osmesa")
    assert result.stdout.split()[1] == "True"
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("set_by_user", "display", "has_egl", "expected"),
    [
        ("osmesa", None, True, "osmesa"),
        ("EGL", ":0", True, "egl"),
        (None, None, True, "egl"),
        (None, None, False, "osmesa"),
        (None, ":0", True, "glfw"),
        ("", None, True, "egl"),
    ],
)
def test_choice(
    monkeypatch: pytest.MonkeyPatch,
    set_by_user: str | None,
    display: str | None,
    has_egl: bool,
    expected: str,
) -> None:
    for name, value in (("MUJOCO_GL", set_by_user), ("DISPLAY", display)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libEGL.so.1" if has_egl else None)
    assert choose_backend() == expected
    assert os.environ["MUJOCO_GL"] == (set_by_user or expected), "a value of the user is never changed"


@pytest.mark.parametrize(("set_by_user", "expected"), [("", "cgl"), ("glfw", "glfw")])
def test_choice_on_macos(monkeypatch: pytest.MonkeyPatch, set_by_user: str, expected: str) -> None:
    monkeypatch.setenv("MUJOCO_GL", set_by_user)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("sys.platform", "darwin")
    assert choose_backend() == expected
