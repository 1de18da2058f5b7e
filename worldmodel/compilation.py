"""Regional `torch.compile`: the transformer's blocks, which all run one compiled graph, and nothing around them.

All blocks have the same code and shapes, so the first that runs pays for the compilation (seconds to a minute) and the others use it:
a deeper model compiles no longer. Shapes are compiled in: all batches have the same rows and positions, and how many tokens an expert
gets is data (`worldmodel.dispatch`). The grouped products of experts are compiled too in bfloat16 on CUDA; elsewhere they are one
operation that the compiler does not look into.
"""

import importlib.util
import os
import shutil
from typing import Literal

import torch

from worldmodel.errors import UserError
from worldmodel.transformer import Trunk

Compile = Literal["auto", "on", "off"]


def should_compile(choice: Compile, device: torch.device) -> bool:
    """Whether to compile on this device: `auto` does so on CUDA where it can, and never on a CPU, where it gains next to nothing.

    Raises:
        UserError: `on` where no compiler is found.
    """
    missing = missing_compiler(device)
    if choice == "on" and missing:
        raise UserError(f"compile is on, but {missing}; install it, or set compile to off")
    return choice == "on" or (choice == "auto" and device.type == "cuda" and not missing)


def missing_compiler(device: torch.device) -> str:
    """What `torch.compile` lacks here, in words; empty if nothing."""
    compilers = (os.environ["CXX"],) if "CXX" in os.environ else ("g++", "clang++")
    if not any(map(shutil.which, compilers)):
        return f"there is no C++ compiler ({' or '.join(compilers)})"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return ""


def compile_blocks(trunk: Trunk) -> None:
    """Compile every block of a trunk in place, before it is sharded; names of weights and checkpoints stay the same."""
    for block in trunk.blocks:
        block.compile(dynamic=False)
