"""One training loop for every stage of the codec, with checkpoints that resume bit for bit.

A stage is a module, a loss and a number of steps. All its randomness comes from one generator, whose state
is saved with the module and the optimizer in a single safetensors file that is written beside and renamed:
a crash leaves the last one.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from worldmodel.errors import UserError

logger = logging.getLogger(__name__)

Loss = Callable[[torch.Generator, float], tuple[Tensor, dict[str, Tensor]]]
"""Draws its own batch with the generator; is told the share of the steps done, in [0, 1); returns the scalar and its named parts."""


@dataclass(frozen=True)
class FitConfig:
    """How a stage is optimised."""

    lr: float = 2e-3
    """Peak learning rate: linear warm-up, then cosine to a tenth."""
    warmup: int = 50
    """Steps of warm-up."""
    weight_decay: float = 0.05
    """Of matrices and convolutions only."""
    clip: float = 1.0
    """Largest gradient norm."""
    log_every: int = 20
    """Steps between two points in TensorBoard."""
    checkpoint_every: int = 100
    """Steps between two checkpoints; at most this many are lost by a crash."""


def fit(
    name: str,
    module: nn.Module,
    loss: Loss,
    steps: int,
    seed: int,
    config: FitConfig,
    checkpoint: Path,
    writer: SummaryWriter | None = None,
    opponent: nn.Module | None = None,
    opponent_lr_factor: float = 1.0,
) -> float:
    """Trains the parameters of `module` that require gradients; goes on from `checkpoint` if it exists.

    Args:
        name: of the stage, in the progress bar and in TensorBoard (`codec/<name>/...`).
        module: changed in place.
        loss: see `Loss`.
        steps: optimizer steps in all.
        seed: of the generator.
        config: optimisation.
        checkpoint: file to resume from and to write to.
        writer: TensorBoard, if wanted.
        opponent: trained by the same loss, with gradients clipped apart from the module's; must not share parameters with it.
        opponent_lr_factor: learning rate of the opponent over that of the module.

    Returns:
        Seconds of training, those before a resume included.

    Raises:
        UserError: when the checkpoint is damaged or of another module.
    """
    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    own = {key: value for key, value in module.named_parameters() if value.requires_grad}
    others = {f"opponent.{key}": value for key, value in opponent.named_parameters()} if opponent is not None else {}
    parameters = own | others
    groups = parameter_groups(own, config.weight_decay, 1.0)
    if others:
        groups += parameter_groups(others, config.weight_decay, opponent_lr_factor)
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95))
    step, seconds = 0, 0.0
    if checkpoint.exists():
        step, seconds = load_checkpoint(checkpoint, parameters, optimizer, generator)
        logger.info("%s goes on from step %d of %d", name, step, steps)
    module.train()
    started, first = time.perf_counter() - seconds, step
    for step in tqdm(range(first, steps), desc=f"codec {name}", initial=first, total=steps, mininterval=1.0):
        for group in optimizer.param_groups:
            group["lr"] = group["lr_factor"] * learning_rate(step, steps, config)
        total, parts = loss(generator, step / steps)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(own.values(), config.clip)
        if others:
            nn.utils.clip_grad_norm_(others.values(), config.clip)
        optimizer.step()
        if writer is not None and (step % config.log_every == 0 or step == steps - 1):
            scalars = {"loss": total.detach(), "gradient_norm": norm, **parts}
            for key, value in scalars.items():
                writer.add_scalar(f"codec/{name}/{key}", value.item(), step)
        if (step + 1) % config.checkpoint_every == 0 or step == steps - 1:
            seconds = time.perf_counter() - started
            save_checkpoint(checkpoint, step + 1, seconds, parameters, optimizer, generator)
    module.eval()
    return seconds


def parameter_groups(parameters: dict[str, nn.Parameter], weight_decay: float, lr_factor: float) -> list[dict[str, Any]]:
    """Weights of layers, which decay, and the rest: biases, norms, pictures."""
    matrices = [value for value in parameters.values() if value.ndim in (2, 4)]
    rest = [value for value in parameters.values() if value.ndim not in (2, 4)]
    return [
        {"params": matrices, "weight_decay": weight_decay, "lr_factor": lr_factor},
        {"params": rest, "weight_decay": 0.0, "lr_factor": lr_factor},
    ]


def learning_rate(step: int, steps: int, config: FitConfig) -> float:
    """Linear warm-up, then cosine from `lr` to a tenth of it at the last step."""
    warmup = min(config.warmup, max(1, steps // 4))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return config.lr * (0.55 + 0.45 * math.cos(math.pi * progress))


def save_checkpoint(
    path: Path,
    step: int,
    seconds: float,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    generator: torch.Generator,
) -> None:
    """Writes everything that the next step depends on, atomically."""
    tensors = {"generator": generator.get_state()}
    for name, parameter in parameters.items():
        tensors[f"parameter.{name}"] = parameter.detach().cpu().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value.detach().cpu().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"step": str(step), "seconds": f"{seconds:.3f}"})
    os.replace(temporary, path)


def load_checkpoint(
    path: Path,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    generator: torch.Generator,
) -> tuple[int, float]:
    """Restores what `save_checkpoint` wrote; returns the number of steps done and the seconds they took.

    Raises:
        UserError: when the file is damaged or of another module.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            step, seconds = int(metadata["step"]), float(metadata["seconds"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        generator.set_state(tensors["generator"])
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"parameter.{name}"])
                if name.startswith("opponent.") and f"optimizer.step.{name}" not in tensors:  # an opponent that has not begun
                    continue
                optimizer.state[parameter] = {
                    "step": tensors[f"optimizer.step.{name}"],
                    "exp_avg": tensors[f"optimizer.exp_avg.{name}"].to(parameter.device),
                    "exp_avg_sq": tensors[f"optimizer.exp_avg_sq.{name}"].to(parameter.device),
                }
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is no checkpoint of this run ({error}); remove it to start again") from None
    return step, seconds
