"""Where and in which number format to compute.

Weights, optimizer state and moving averages are always float32; `bfloat16` means autocast around the forward
pass.
"""

import contextlib
from typing import Literal

import torch
from torch import Tensor

from worldmodel import cpu_speed
from worldmodel.errors import UserError

DTypeName = Literal["auto", "float32", "bfloat16"]


def choose_device(name: str) -> torch.device:
    """Return the device that `name` means; `auto` is the first GPU, or the CPU where there is none.

    Raises:
        UserError: torch does not know the name, or the machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is of a kind that nothing here was tested on: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not there, torch sees {torch.cuda.device_count()} GPUs: use auto or cpu")
    return device


def choose_dtype(name: DTypeName, device: torch.device) -> torch.dtype:
    """Choose the forward pass's dtype; `auto` is bfloat16 where that is faster (a GPU's generation tells, a CPU is measured)."""
    if name == "auto":
        faster = has_fast_bfloat16(device) if device.type == "cuda" else cpu_speed.cpu_speed().bfloat16
        return torch.bfloat16 if faster else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 matrix products run in hardware (a CPU without them is up to 100 times slower)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return cpu_speed.multiplies_bfloat16()


def choose_onednn(device: torch.device) -> bool:
    """Decide whether float32 products go to oneDNN (`cpu_speed.float32_products`): on a CPU where that measured faster, and exact."""
    return device.type == "cpu" and cpu_speed.cpu_speed().onednn


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device; to a GPU by way of page-locked memory, so that nobody waits until the GPU comes to it."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Autocast to `dtype`, or do nothing for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
