"""Which OpenGL draws the pictures on a machine without a display.

This file imports no mujoco at the top: that import already reads `MUJOCO_GL`.
"""

import ctypes.util
import importlib
import os
import sys

from worldmodel.errors import UserError


def choose_backend() -> str:
    """Choose the GL backend: `MUJOCO_GL` if set; else cgl on macOS, glfw on a display, egl without one, osmesa without EGL.

    The choice is written to `MUJOCO_GL`, so that mujoco and worker processes make the same one.
    """
    if not os.environ.get("MUJOCO_GL"):
        headless = "egl" if ctypes.util.find_library("EGL") else "osmesa"
        linux = "glfw" if os.environ.get("DISPLAY") else headless
        os.environ["MUJOCO_GL"] = "cgl" if sys.platform == "darwin" else linux
    os.environ.setdefault("LP_NUM_THREADS", "0")  # llvmpipe's own threads slow small pictures down
    return os.environ["MUJOCO_GL"].lower().strip()


def no_rendering(error: Exception) -> UserError:
    """Make the one message for every way in which OpenGL can be missing."""
    return UserError(
        f"cannot render with MUJOCO_GL={os.environ.get('MUJOCO_GL')} ({error}): install a headless OpenGL "
        "with `apt-get install libosmesa6 libegl1 libgl1-mesa-dri` and set MUJOCO_GL=egl or MUJOCO_GL=osmesa"
    )


def load_mujoco() -> None:
    """Import mujoco with a backend chosen.

    Raises:
        UserError: if `MUJOCO_GL` names a backend that is unknown or not installed.
    """
    choose_backend()
    try:
        importlib.import_module("mujoco")
    except Exception as error:  # a missing library surfaces as ImportError, RuntimeError or AttributeError
        raise no_rendering(error) from error
