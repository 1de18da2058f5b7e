"""Regional `torch.compile`: the transformer's blocks, which all run one compiled graph, and nothing around them.

All blocks have the same code and shapes, so the first that runs pays for the compilation (seconds to a minute) and the others use it:
a deeper model compiles no longer. Shapes are compiled in: all batches have the same rows and positions, and how many tokens an expert
gets is data (`worldmodel.dispatch`). The grouped products of experts are compiled too in bfloat16 on CUDA; elsewhere they are one
operation that the compiler does not look into.
"""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import nn

from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.transformer import Trunk

Compile = Literal["auto", "on", "off"]
SHAPES = 64
"""Graphs of one piece of code that are kept: one for each shape, precision and kind of layer that a process meets."""


def should_compile(choice: Compile, device: torch.device) -> bool:
    """Decide whether to compile on this device: `auto` does on CUDA where it can, and never on a CPU, where it gains next to nothing.

    Raises:
        UserError: `on` where no compiler is found.
    """
    missing = missing_compiler(device)
    if choice == "on" and missing:
        raise UserError(f"compile is on, but {missing}; install it, or set compile to off")
    return choice == "on" or (choice == "auto" and device.type == "cuda" and not missing)


def missing_compiler(device: torch.device) -> str:
    """Say what `torch.compile` lacks here, in words; empty if nothing."""
    compilers = (os.environ["CXX"],) if "CXX" in os.environ else ("g++", "clang++")
    if not any(map(shutil.which, compilers)):
        return f"there is no C++ compiler ({' or '.join(compilers)})"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    headers = Path(sysconfig.get_path("include")) / "Python.h"  # with which triton builds what launches its kernels
    if device.type == "cuda" and not headers.exists():
        return "Python's headers (Python.h, of a package such as python3-dev) are not installed"
    return ""


def keep_many_graphs() -> None:
    """Let torch keep a graph for each of many shapes: beyond 8 it runs the code as it is, FlexAttention by way of all n^2 scores."""
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, SHAPES)


def _acquaint_einops() -> None:
    """Show einops all kinds of arrays: graphs are thrown away when it meets a new one, such as the frames of the first film."""
    arrays: list[Any] = [np.zeros(1), torch.zeros(1), nn.Parameter(torch.zeros(1))]
    for array in arrays:
        rearrange(array, "i -> 1 i")


def compile_blocks(trunk: "Trunk") -> None:
    """Compile every block of a trunk in place, before it is sharded; names of weights and checkpoints stay the same."""
    keep_many_graphs()
    _acquaint_einops()
    for block in trunk.blocks:
        block.compile(dynamic=False)
