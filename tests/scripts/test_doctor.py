"""Each figure of `worldmodel doctor` is that of the machine: planted values come out where they belong, wrong ones do not pass."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

import worldmodel
from worldmodel import cpu_speed, flops, precision
from worldmodel.cpu_speed import CPUSpeed
from worldmodel.errors import UserError
from worldmodel.scripts import doctor
from worldmodel.scripts.cli import run

MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    6291456 kB\nHugePages_Total:       0\n"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates that tell the device, the format and the way through oneDNN; a CPU that knows them all and is fastest in bfloat16."""

    def rate(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
        assert seconds == doctor.SECONDS
        sent = dtype == torch.float32 and device.type == "cpu" and torch.backends.mkldnn.matmul.fp32_precision == "bf16"  # type: ignore[attr-defined]
        return 1e9 * ({torch.float32: 10, torch.bfloat16: 40}[dtype] + 5 * sent + 1000 * (device.type == "cuda"))

    monkeypatch.setattr(flops, "matmul_rate", rate)
    measured(monkeypatch)


def measured(monkeypatch: pytest.MonkeyPatch, onednn: float = 1.0, bfloat16: float = 0.5, error: float = 5e-7) -> None:
    """Let the ways of this CPU take these seconds beside 1 of the default, oneDNN with this error."""
    found = CPUSpeed({"default": 1.0, "onednn": onednn, "bfloat16": bfloat16}, {"default": 0.0, "onednn": error, "bfloat16": 3e-3})
    monkeypatch.setattr(cpu_speed, "cpu_speed", lambda: found)
    monkeypatch.setattr(cpu_speed, "multiplies_bfloat16", lambda: bfloat16 < 100)


def test_the_table_and_the_json_say_the_same(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert run(["doctor"]) == 0
    table = capsys.readouterr().out
    assert found["versions"]["torch"] == torch.__version__ == metadata.version("torch")
    assert found["versions"]["python"] == sys.version.split()[0] and found["versions"]["worldmodel"] == worldmodel.__version__
    assert {"mujoco", "gymnasium", "numpy", "h5py", "commit", "processor"} < set(found["versions"])
    for name, value in found["versions"].items():
        assert re.search(rf"^{name} +{re.escape(value or 'no git checkout')}$", table, re.MULTILINE)
    assert found["opengl"]["draws"] and f"{found['opengl']['backend']}: draws pictures" in table
    assert found["opengl"]["backend"] in ("egl", "osmesa", "glfw", "cgl") and found["opengl"]["problem"] == ""
    assert "cpu, float32: 10 GFLOP/s" in table and "cpu, float32 through oneDNN: 15 GFLOP/s" in table
    assert f"{found['home']['path']}: {found['home']['free_gib']:.1f} GiB free" in table
    assert f"CPU threads: {torch.get_num_threads()}" in table


@pytest.mark.parametrize("drawn", ["nothing", "one color"])
def test_where_nothing_is_drawn_the_reason_stands_in_the_table(
    drawn: str, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make_task(env_id: str, image_size: int) -> Any:
        if drawn == "nothing":
            raise UserError("cannot render with MUJOCO_GL=egl (planted): install OpenGL")
        pixels = np.full((image_size, image_size, 3), 7, np.uint8)
        return SimpleNamespace(reset=lambda seed: ({"pixels": pixels}, {}), close=lambda: None)

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr("worldmodel.envs.make_task", make_task)
    found = doctor.opengl()
    reason = (
        "cannot render with MUJOCO_GL=egl (planted): install OpenGL"
        if drawn == "nothing"
        else "MUJOCO_GL=egl draws a picture of one color"
    )
    assert found["backend"] == "egl" and not found["draws"] and found["problem"].startswith(reason)
    assert run(["doctor"]) == 0, "what is missing is said, and the rest all the same"
    out = capsys.readouterr().out
    assert re.search(rf"^OpenGL +{re.escape(reason)}", out, re.MULTILINE) and "draws pictures" not in out and "memory" in out


def test_a_backend_with_which_mujoco_cannot_be_imported(root: Path) -> None:
    script = "from worldmodel.scripts import doctor; import json; print(json.dumps(doctor.opengl()))"
    environment = os.environ | {"MUJOCO_GL": "nonsense", "PYTHONPATH": str(root)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["backend"] == "nonsense" and not found["draws"]
    assert found["problem"].startswith("cannot render with MUJOCO_GL=nonsense")


@pytest.mark.parametrize(
    ("onednn", "bfloat16", "error", "formats", "auto"),
    [
        (1.0, 0.5, 5e-7, {"float32": 10.0, doctor.ONEDNN: 15.0, "bfloat16": 40.0}, "bfloat16"),
        (0.5, 0.9, 5e-7, {"float32": 10.0, doctor.ONEDNN: 15.0, "bfloat16": 40.0}, doctor.ONEDNN),
        (0.5, 0.9, 3e-3, {"float32": 10.0, "bfloat16": 40.0}, "float32"),
        (1.0, np.inf, 5e-7, {"float32": 10.0, doctor.ONEDNN: 15.0, "bfloat16": None}, "float32"),
    ],
    ids=["bfloat16", "oneDNN", "oneDNN-inexact", "no-bfloat16"],
)
def test_rates_of_a_cpu(
    onednn: float,
    bfloat16: float,
    error: float,
    formats: dict[str, float | None],
    auto: str,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured(monkeypatch, onednn, bfloat16, error)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    found = doctor.compute()
    assert {row["format"]: row["gflops"] for row in found["matmul"]} == formats
    assert {row["device"] for row in found["matmul"]} == {"cpu"}
    assert found["gpus"] == [] and found["auto"] == {"device": "cpu", "format": auto}
    lines = doctor.rows(table_of(**found))
    assert ("GPU", "none that torch sees") in lines
    assert ("trains on", f"cpu in {auto}; CPU threads: {torch.get_num_threads()}") in lines
    assert (("matrix product", "cpu, bfloat16: no instructions for it") in lines) == (formats["bfloat16"] is None)


def test_a_gpu_is_named_and_measured(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="Planted 9000", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: gpu)
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: True)
    found = doctor.compute()
    assert found["gpus"] == [{"name": "Planted 9000", "memory_gib": 80.0}]
    rates = {(row["device"], row["format"]): row["gflops"] for row in found["matmul"]}
    cpu = {("cpu", "float32"): 10.0, ("cpu", doctor.ONEDNN): 15.0, ("cpu", "bfloat16"): 40.0}
    assert rates == cpu | {("cuda", "float32"): 1010.0, ("cuda", "bfloat16"): 1040.0}
    assert found["auto"] == {"device": "cuda", "format": "bfloat16"}
    lines = doctor.rows(table_of(**found))
    assert ("GPU", "Planted 9000, 80 GiB") in lines and ("matrix product", "cuda, bfloat16: 1040 GFLOP/s") in lines


def test_the_rate_is_really_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, bfloat16=np.inf)
    monkeypatch.setattr(doctor, "SECONDS", 0.02)
    began = time.perf_counter()
    found = {row["format"]: row["gflops"] for row in doctor.compute()["matmul"]}
    assert time.perf_counter() - began >= 2 * 0.02
    assert 0.05 < found["float32"] < 1e5 and 0.05 < found[doctor.ONEDNN] < 1e5 and found["bfloat16"] is None


def test_extras_are_those_of_the_project(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    hard = {Requirement(text).name for text in project["dependencies"]}
    wanted = {
        name: {Requirement(text).name for text in texts} - hard
        for name, texts in project["optional-dependencies"].items()
        if name not in ("all", "docs", "test")
    }
    assert {name: set(packages) for name, packages in doctor.EXTRAS.items()} == wanted


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "distributions", lambda name: iter(() if name in ("uvicorn", "ray") else (name,)))
    found = doctor.extras()
    assert {name: extra["missing"] for name, extra in found.items() if extra["missing"]} == {"play": ["uvicorn"], "ray": ["ray"]}
    assert found["sb3"]["install"] == "pip install 'worldmodel[sb3]'"
    lines = dict(doctor.rows(table_of(extras=found)))
    assert lines["extra play"] == "lacks uvicorn: pip install 'worldmodel[play]'" and lines["extra sb3"] == "installed"


def test_installed_packages_are_found_whatever_their_spelling() -> None:
    assert doctor.extras()["sb3"]["missing"] == [], "stable-baselines3 is installed as stable_baselines3"


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(total=9 * 2**30, used=6 * 2**30, free=3 * 2**30)
    asked: list[Path] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or free)
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "not" / "yet"))
    found = doctor.home_folder()
    assert found == {"path": str(tmp_path / "not" / "yet"), "writable": True, "free_gib": 3.0} and asked == [tmp_path]
    assert not (tmp_path / "not").exists(), "looking makes nothing"
    assert dict(doctor.rows(table_of(home=found)))["files go to"] == f"{tmp_path / 'not' / 'yet'}: 3.0 GiB free"
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "file"))
    found = doctor.home_folder()
    assert not found["writable"] and "not writable, set WORLDMODEL_HOME" in dict(doctor.rows(table_of(home=found)))["files go to"]
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert not doctor.home_folder()["writable"]


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    found = doctor.memory(tmp_path / "meminfo")
    assert found == {"total_gib": 16.0, "available_gib": 6.0}
    assert dict(doctor.rows(table_of(memory=found)))["memory"] == "16.0 GiB, 6.0 GiB available"
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 2**20, "SC_PAGE_SIZE": 2**14}.__getitem__)
    found = doctor.memory(tmp_path / "as on macOS")
    assert found == {"total_gib": 16.0, "available_gib": None}
    assert dict(doctor.rows(table_of(memory=found)))["memory"] == "16.0 GiB"


def table_of(**facts: Any) -> dict[str, Any]:
    """Facts of a whole examination, some of them these."""
    return {
        "versions": {"python": "3.11.0"},
        "opengl": {"backend": "egl", "draws": True, "problem": ""},
        "gpus": [],
        "cpu_threads": 1,
        "matmul": [],
        "auto": {"device": "cpu", "format": "float32"},
        "extras": {},
        "home": {"path": "home", "writable": True, "free_gib": 1.0},
        "memory": {"total_gib": 1.0, "available_gib": 1.0},
    } | facts
