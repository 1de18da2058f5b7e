"""Where figures come from: the command, the versions and the machine that are recorded with them in a JSON file."""

import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import worldmodel

if TYPE_CHECKING:
    import torch


def command_line(verb: str) -> str:
    """Return the command as it was typed: what the console command was given after its verb."""
    return " ".join(["worldmodel", verb, shlex.join(sys.argv[2:])]).rstrip()


def machine(*packages: str) -> dict[str, Any]:
    """Return the processor, and the versions of Python, worldmodel and some packages."""
    facts = {"processor": processor(), "python": platform.python_version(), "worldmodel": worldmodel.__version__}
    return facts | {name: version(name) for name in packages}


def commit() -> str:
    """Return the commit of the checkout that holds this code, with a + where it was changed since; empty where there is none."""
    git = ("git", "-C", str(Path(worldmodel.__file__).resolve().parent))
    try:
        name = subprocess.run([*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name + "+" * bool(changed)


def device_facts(device: "torch.device") -> dict[str, Any]:
    """Return the version of torch, and what it computes on."""
    import torch  # which benchmarks of other things need not wait for

    facts: dict[str, Any] = {"torch": torch.__version__, "device": str(device), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        query = "name,driver_version,clocks.sm,clocks.max.sm,power.limit"
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={device.index or 0}"]
        try:
            clocks = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            clocks = "not readable"
        return facts | {
            "gpu": torch.cuda.get_device_name(device),
            query: clocks,
            "cuda": torch.version.cuda,
            "triton": version("triton"),
        }
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    wide = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16")
    return facts | {"processor features": [name for name in wide if features.get(name)]}


def processor() -> str:
    """Return the name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()
