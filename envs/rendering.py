"""Headless rendering that is fast on a CPU.

MuJoCo's stock settings (a 4096 x 4096 shadow map, fine tessellation, reflections) cost 10 to 100 times the
frame itself under a software rasteriser. `apply_fast_preset` turns them off and lights the scene evenly, for
clean flat colors. Multisampling stays on: blended pixels show where an edge is to a fraction of a pixel.
"""

import atexit
import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from worldmodel.envs.headless import choose_backend, no_rendering
from worldmodel.errors import UserError


def check_quality(render_quality: str) -> str:
    """Return the quality of drawing.

    Raises:
        UserError: for one that does not exist.
    """
    if render_quality not in ("fast", "full"):
        raise UserError(f"render_quality={render_quality!r}: expected 'fast' or 'full'")
    return render_quality


def apply_fast_preset(spec: mujoco.MjSpec, multisampling: int) -> None:
    """Make a scene cheap to draw, in place, before it is compiled: even light, no shadows, few polygons."""
    quality, headlight = spec.visual.quality, spec.visual.headlight
    quality.shadowsize, quality.offsamples = 0, multisampling
    quality.numslices, quality.numstacks, quality.numquads = 24, 2, 1
    headlight.ambient, headlight.diffuse, headlight.specular = [1.0] * 3, [0.0] * 3, [0.0] * 3


def apply_full_preset(spec: mujoco.MjSpec) -> None:
    """Set MuJoCo's stock quality, in place, before the scene is compiled; a scene without a lamp gets one from above."""
    stock = mujoco.MjSpec().visual
    for name in ("shadowsize", "offsamples", "numslices", "numstacks", "numquads"):
        setattr(spec.visual.quality, name, getattr(stock.quality, name))
    if not spec.lights:
        light = {"castshadow": True, "diffuse": [0.6] * 3, "specular": [0.1] * 3}
        spec.worldbody.add_light(name="lamp", pos=[-0.5, 0.5, 3], dir=[0.2, -0.2, -1], **light)
        spec.visual.headlight.ambient = [0.5] * 3


def _make_gl_context(size: int) -> Any:
    backend = choose_backend()
    if backend == "egl":
        from mujoco.egl import GLContext
    elif backend == "osmesa":
        from mujoco.osmesa import GLContext
    elif backend == "cgl":
        from mujoco.cgl import GLContext
    else:
        import glfw
        from mujoco.glfw import GLContext

        glfw.ERROR_REPORTING = "log"  # what fails is said once, by `no_rendering`
    return GLContext(size, size)


def _egl_context() -> Callable[[], int | None] | None:
    """Return a function that gives the address of this thread's current EGL context; None with another backend."""
    if choose_backend() != "egl":
        return None
    from OpenGL.platform import PLATFORM  # type: ignore[import-untyped]

    current: Any = PLATFORM.EGL["eglGetCurrentContext"]  # without PyOpenGL's wrapper, which takes ten times as long
    current.restype = ctypes.c_void_p
    return current


_open_renderers: "weakref.WeakSet[Renderer]" = weakref.WeakSet()


def _close_all() -> None:
    for renderer in list(_open_renderers):
        renderer.close()


class Renderer:
    """Draws square pictures of one model through its cameras."""

    def __init__(self, model: mujoco.MjModel, size: int, fast: bool = True, sky: bool = False) -> None:
        """Open a GL context.

        Args:
            model: Compiled scene; colors, sizes and poses may change later.
            size: Height and width in pixels.
            fast: Without shadows, reflections, sky, fog and haze.
            sky: With the sky all the same.

        Raises:
            UserError: if this machine has no usable headless OpenGL.
        """
        self._context: mujoco.MjrContext | None = None
        self._model = model
        model.vis.global_.offwidth = model.vis.global_.offheight = size  # of the frame buffer
        self._rect = mujoco.MjrRect(0, 0, size, size)
        self._buffer = np.empty((size, size, 3), dtype=np.uint8)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + model.nsite + 64 * model.ntendon + 16)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "FOG", "HAZE") if fast else ():  # these cost time even when unused
            self._scene.flags[int(getattr(mujoco.mjtRndFlag, f"mjRND_{flag}"))] = int(sky and flag == "SKYBOX")
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = int(mujoco.mjtCamera.mjCAMERA_FIXED)
        try:
            self._gl = _make_gl_context(size)
            self._gl.make_current()
            self._current = _egl_context()
            self._address = self._current() if self._current else None
            self._context = mujoco.MjrContext(model, int(mujoco.mjtFontScale.mjFONTSCALE_50))
        except Exception as error:  # PyOpenGL, EGL and MuJoCo each raise types of their own
            raise no_rendering(error) from error
        _open_renderers.add(self)
        atexit.register(_close_all)  # here, so that it runs before the exit function that EGL has registered
        mujoco.mjr_setBuffer(int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN), self._context)

    def render(self, data: mujoco.MjData, camera: str | mujoco.MjvCamera) -> np.ndarray:
        """Draw a new uint8 (H, W, 3) picture of `data`, whose body poses must be up to date, through a named or a free camera."""
        if isinstance(camera, str):
            self._camera.fixedcamid = self._model.camera(camera).id
            camera = self._camera
        mujoco.mjv_updateScene(self._model, data, self._option, None, camera, int(mujoco.mjtCatBit.mjCAT_ALL), self._scene)
        if self._current is None or self._current() != self._address:
            self._gl.make_current()  # costs time even if it is current already
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(self._buffer, None, self._rect, self._context)
        return self._buffer[::-1].copy()  # OpenGL counts rows from the bottom

    def close(self) -> None:
        """Free the GL context; calling it again does nothing."""
        if self._context is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._context = None

    def __del__(self) -> None:
        """Free the context while it is current: otherwise OpenGL would delete objects of another renderer."""
        self.close()
